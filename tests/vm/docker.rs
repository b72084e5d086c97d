// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with Docker every day, with runc first and then with ours: the same commands, the same answers.

use std::fs;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::docker::{Docker, Named};
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::suite::Suite;

use crate::everyday::{self, Start, on_its_kernel};

pub fn cases() -> Vec<Trial> {
    let groups = Suite::ALL.iter().flat_map(|suite| {
        let by_path: Start = |w, suite| Ok(Box::new(Docker::new(w, suite, Named::Path)?));
        let by_type: Start = |w, suite| Ok(Box::new(Docker::new(w, suite, Named::Type)?));
        let mut trials = group(*suite, "docker", by_path);
        // The host's may be one that knows paths only.
        if *suite != Suite::Host {
            trials.extend(group(*suite, "docker_by_type", by_type));
        }
        trials
    });
    groups.collect()
}

fn group(suite: Suite, name: &str, start: Start) -> Vec<Trial> {
    let case = |case: &str, work| everyday::case(name, suite, case, start, work);
    vec![
        case("run_and_its_options", everyday::run),
        case("a_container_from_start_to_end", everyday::life),
        case("volumes_and_copies", everyday::files),
        case("networks_and_ports", everyday::network),
        case("builds", build),
    ]
}

/// The builder before BuildKit: its steps are containers of the daemon's default runtime. BuildKit calls runc, whatever the daemon is
/// told.
fn build(docker: &dyn Engine, seen: &mut Behaviours<'_>) {
    let dir = docker.world().dir().join("build");
    fs::create_dir(&dir).expect("make a directory");
    let text = format!(
        "FROM {IMAGE} AS first\nRUN mkdir /made && uname -r >/made/kernel\n\
         FROM {IMAGE}\nCOPY --from=first /made /made\nRUN mkdir -m 777 /own\nUSER 1000\nRUN id -u >/own/user\n"
    );
    fs::write(dir.join("Dockerfile"), text).expect("write");
    seen.see("build (classic; BuildKit calls runc itself)", || {
        docker.step(&["build", "--quiet", "--tag", "built", "build"], 0, "");
        let run = ["run", "--rm", "--network", "none", "built", "cat"];
        docker.step(&[&run[..], &["/own/user"]].concat(), 0, "1000");
        let kernel = docker.run(&[&run[..], &["/made/kernel"]].concat());
        on_its_kernel(docker.world(), &kernel.exits(0).text());
    });
}
