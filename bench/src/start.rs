// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! From the command to the first byte of the container's output, and where that time goes.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use vm_tests::{Runtime, World, command};

use crate::sample::{Sample, head, row};

/// Milliseconds to the first byte, and to the end of the command.
fn once(world: &World) -> (f64, f64) {
    let bundle = world.bundle("start", "echo first");
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

/// Cold start of ours and of runc.
pub fn compare(runs: usize) {
    let worlds = [World::new(Runtime::Ours), World::new(Runtime::Reference)];
    let mut first = [Sample::default(), Sample::default()];
    let mut whole = [Sample::default(), Sample::default()];
    // One run each that does not count: page cache, CPU clocks.
    for world in &worlds {
        once(world);
    }
    for _ in 0..runs {
        for (at, world) in worlds.iter().enumerate() {
            let (to_first, to_end) = once(world);
            first[at].push(to_first);
            whole[at].push(to_end);
        }
    }
    head("Cold start", "ms", runs);
    row("to the first byte of output", &first[0], &first[1]);
    row("to the end of `run`", &whole[0], &whole[1]);
    worlds.into_iter().for_each(World::end);
}

/// The spans that the monitor saved with the sandbox.
pub fn spans(runs: usize) {
    let world = World::new(Runtime::Ours);
    let mut spans: BTreeMap<String, Sample> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..runs {
        let bundle = world.bundle("spans", "true");
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
