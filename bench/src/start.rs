// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! From the command to the first byte of the container's output, and where that time goes.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};
use vm_tests::{Runtime, World, command};

use crate::sample::{Sample, head, row};

/// Keeps a machine from beginning as a copy of a frozen guest.
const TEMPLATE: &str = "io.katacontainers.config.hypervisor.enable_template";

/// Milliseconds to the first byte, and to the end of the command.
fn once(world: &World, warm: bool) -> (f64, f64) {
    let mut bundle = world.bundle("start", "echo first");
    bundle.set("/annotations", json!({ TEMPLATE: warm.to_string() }));
    let mut command = world.runtime();
    command
        .args(["run", "--bundle"])
        .arg(&bundle.path)
        .arg(world.id("start"));
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the runtime runs");
    let mut byte = [0];
    child
        .stdout
        .take()
        .expect("piped")
        .read_exact(&mut byte)
        .expect("the container prints");
    let first = begin.elapsed().as_secs_f64() * 1e3;
    assert_eq!(command::end(&mut child), 0);
    (first, begin.elapsed().as_secs_f64() * 1e3)
}

/// Start of ours, as a copy of a frozen guest and by a boot, and of runc.
pub fn compare(runs: usize) {
    let worlds = [
        World::new(Runtime::Ours),
        World::new(Runtime::Ours),
        World::new(Runtime::Reference),
    ];
    let mut first: [Sample; 3] = Default::default();
    let mut whole: [Sample; 3] = Default::default();
    // One run each that does not count: page cache, CPU clocks.
    for (at, world) in worlds.iter().enumerate() {
        once(world, at == 0);
    }
    for _ in 0..runs {
        for (at, world) in worlds.iter().enumerate() {
            let (to_first, to_end) = once(world, at == 0);
            first[at].push(to_first);
            whole[at].push(to_end);
        }
    }
    for (title, at) in [("Warm start", 0), ("Cold start", 1)] {
        head(title, "ms", runs);
        row("to the first byte of output", &first[at], &first[2]);
        row("to the end of `run`", &whole[at], &whole[2]);
    }
    println!(
        "\nA warm start takes {:.2} of a cold one to the first byte of output.",
        first[0].median() / first[1].median()
    );
    worlds.into_iter().for_each(World::end);
}

/// The spans that the monitor saved with the sandbox.
pub fn spans(runs: usize) {
    let world = World::new(Runtime::Ours);
    let mut spans: BTreeMap<String, Sample> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..runs {
        let mut bundle = world.bundle("spans", "true");
        bundle.set("/annotations", json!({ TEMPLATE: "false" }));
        world.create("spans", &bundle);
        let text = std::fs::read(world.sandbox("spans").join("state.json")).expect("the saved state");
        let state: Value = serde_json::from_slice(&text).expect("JSON");
        for span in state["spans"].as_array().into_iter().flatten() {
            let (Some(name), Some(ms)) = (span["name"].as_str(), span["ms"].as_f64()) else {
                continue;
            };
            if !spans.contains_key(name) {
                order.push(name.to_owned());
            }
            spans.entry(name.to_owned()).or_default().push(ms);
        }
        world.oci(&["delete", "--force", &world.id("spans")]).exits(0);
    }
    println!("\n## Spans of a cold `create`\n\n{runs} runs; median (least–most), ms. Spans may overlap.\n");
    println!("| span | ms |\n| --- | --- |");
    for name in order {
        println!("| {name} | {} |", spans[&name].cell());
    }
    world.end();
}
