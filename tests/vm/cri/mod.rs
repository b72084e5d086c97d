// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What Kubernetes does by way of containerd's CRI, with runc's shim first and then with ours. A case looks at many behaviours of one
//! node, as a node takes seconds to come up. Those that take long are looked at by `make cri`.

mod crowd;
mod failures;
mod life;
mod security;
mod sharing;
mod streams;
mod volumes;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::{Verdict, World, both};

pub fn cases() -> Vec<Trial> {
    vec![
        case("pods_and_containers", life::pods),
        case("resources", life::resources),
        case("processes_and_streams", streams::processes),
        case("logs", streams::logs),
        case("security_contexts", security::contexts),
        case("volumes", volumes::volumes),
        case("what_containers_of_a_pod_share", sharing::shared),
        case("containers_that_come_and_go", sharing::comers),
        case("something_is_killed", failures::killed),
        long("cri::a_container_is_made_anew_again_and_again", |node, seen| {
            crowd::restarts(node, seen);
            Verdict::Held
        }),
        long("cri::pods_run_and_removed_at_once", |node, seen| {
            crowd::churn(node, seen);
            Verdict::Held
        }),
        long("scale::pods_at_once", crowd::pods),
    ]
}

fn case(name: &str, work: fn(&Node<'_>, &mut Behaviours<'_>)) -> Trial {
    both(&format!("cri::{name}"), move |w| {
        on_a_node(w, |node, seen| {
            work(node, seen);
            Verdict::Held
        })
    })
}

fn long(name: &str, work: fn(&Node<'_>, &mut Behaviours<'_>) -> Verdict) -> Trial {
    both(name, move |w| match crowd::wanted() {
        Ok(()) => on_a_node(w, work),
        Err(skipped) => skipped,
    })
}

fn on_a_node(w: &World, work: impl Fn(&Node<'_>, &mut Behaviours<'_>) -> Verdict) -> Verdict {
    let node = match Node::new(w) {
        Ok(node) => node,
        Err(why) => return Verdict::Skipped(why),
    };
    let mut seen = Behaviours::new(node.client(), w);
    let verdict = work(&node, &mut seen);
    seen.end();
    verdict
}
