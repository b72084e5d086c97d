// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What Kubernetes does by way of containerd's CRI, with runc's shim first and then with ours. A case looks at many behaviours of one
//! node, as a node takes seconds to come up. Those that take long are looked at by `make cri`.

mod by_shim;
mod crowd;
mod failures;
mod life;
mod security;
mod sharing;
mod streams;
mod volumes;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::node::{Node, Sandboxer};
use vm_tests::suite::Suite;
use vm_tests::{Verdict, World, both, ours};

pub fn cases() -> Vec<Trial> {
    let by_container = Suite::ALL.map(|suite| (suite, Sandboxer::Container));
    let by_shim = ["trixie", "sid"].map(|suite| (Suite::Tree(suite), Sandboxer::Shim));
    let kinds = by_container.into_iter().chain(by_shim);
    kinds
        .flat_map(|(suite, sandboxer)| group(suite, sandboxer))
        .chain(crowds())
        .collect()
}

fn group(suite: Suite, sandboxer: Sandboxer) -> Vec<Trial> {
    let name = suite.group(match sandboxer {
        Sandboxer::Container => "cri",
        Sandboxer::Shim => "cri_by_shim",
    });
    let on = move |w: &World, work: fn(&Node<'_>, &mut Behaviours<'_>)| {
        on_a_node(w, suite, sandboxer, |node, seen| {
            work(node, seen);
            Verdict::Held
        })
    };
    let case =
        |case: &str, work: fn(&Node<'_>, &mut Behaviours<'_>)| both(&format!("{name}::{case}"), move |w| on(w, work));
    let mut cases = vec![
        case("pods_and_containers", life::pods),
        case("resources", life::resources),
        case("processes_and_streams", streams::processes),
        case("logs", streams::logs),
        case("security_contexts", security::contexts),
        case("volumes", volumes::volumes),
        case("what_containers_of_a_pod_share", sharing::shared),
        case("containers_that_come_and_go", sharing::comers),
        case("something_is_killed", failures::killed),
        ours(&format!("{name}::a_configuration"), move |w| {
            w.configure("[machine]\nvcpus = 2\n");
            on(w, life::configured)
        }),
    ];
    if sandboxer == Sandboxer::Shim {
        // What the reference has nothing like.
        let case = |case: &str, work: fn(&Node<'_>, &mut Behaviours<'_>)| {
            ours(&format!("{name}::{case}"), move |w| on(w, work))
        };
        cases.push(case("what_stays_without_containers", by_shim::stays));
        cases.push(case("the_sandbox_service", by_shim::service));
    }
    cases
}

fn crowds() -> Vec<Trial> {
    vec![
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

fn long(name: &str, work: fn(&Node<'_>, &mut Behaviours<'_>) -> Verdict) -> Trial {
    both(name, move |w| match crowd::wanted() {
        Ok(()) => on_a_node(w, Suite::Host, Sandboxer::Container, work),
        Err(skipped) => skipped,
    })
}

fn on_a_node(
    w: &World,
    suite: Suite,
    sandboxer: Sandboxer,
    work: impl Fn(&Node<'_>, &mut Behaviours<'_>) -> Verdict,
) -> Verdict {
    let node = match Node::new(w, suite, sandboxer) {
        Ok(node) => node,
        Err(why) => return Verdict::Skipped(why),
    };
    let mut seen = Behaviours::new(node.client(), w);
    let verdict = work(&node, &mut seen);
    seen.end();
    verdict
}
