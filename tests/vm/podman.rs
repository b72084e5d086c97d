// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with Podman every day, with runc first and then with ours: the same commands, the same answers.

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::podman::Podman;
use vm_tests::{Verdict, both, command};

use crate::everyday;

pub fn cases() -> Vec<Trial> {
    vec![
        case("run_and_its_options", everyday::run),
        case("a_container_from_start_to_end", everyday::life),
        case("volumes_and_copies", everyday::files),
        case("networks_and_ports", everyday::network),
        case("many_at_once", many),
    ]
}

fn case(name: &str, work: fn(&dyn Engine, &mut Behaviours<'_>)) -> Trial {
    both(&format!("podman::{name}"), move |w| {
        let Some(podman) = Podman::new(w) else {
            return Verdict::Skipped("podman is not installed".into());
        };
        let mut seen = Behaviours::new(podman.client(), w);
        work(&podman, &mut seen);
        seen.end();
        Verdict::Held
    })
}

fn many(podman: &dyn Engine, seen: &mut Behaviours<'_>) {
    let commands: Vec<_> = (0..10)
        .map(|n| {
            let mut command = podman.command();
            command.args(["run", "--rm", "--network", "none", IMAGE, "echo", &n.to_string()]);
            command
        })
        .collect();
    seen.see("ten at once", || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = commands
                .into_iter()
                .map(|mut command| scope.spawn(move || command::run(&mut command, b"")))
                .collect();
            for (n, thread) in threads.into_iter().enumerate() {
                assert_eq!(thread.join().expect("it runs").exits(0).text(), n.to_string());
            }
        });
    });
}
