// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A machine that grows and shrinks with the limits of its container, as its processes see it.

use std::fs;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::podman::Podman;
use vm_tests::suite::Suite;
use vm_tests::{Bundle, Verdict, World, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("resize::the_machine_follows_the_limits", |w| cycles(w, &mut bundle(w))),
        ours("resize::a_machine_that_has_booted_too", |w| {
            let mut bundle = bundle(w);
            bundle.set(
                "/annotations",
                json!({"io.katacontainers.config.hypervisor.enable_template": "false"}),
            );
            cycles(w, &mut bundle);
        }),
        ours("resize::memory_that_is_in_use_is_moved", moved),
        ours("resize::no_more_than_the_machine_has", beyond),
        ours("resize::podman_update", podman),
    ]
}

const MIB: u64 = 1 << 20;

fn bundle(w: &World) -> Bundle {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set("/linux/resources", json!({"memory": {"limit": 512 * MIB}}));
    bundle
}

fn start(w: &World, bundle: &Bundle) {
    w.create("c", bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
}

fn update(w: &World, resources: &Value) {
    let mut command = w.runtime();
    command.args(["update", "--resources", "-", &w.id("c")]);
    command::run(&mut command, resources.to_string().as_bytes()).exits(0);
}

/// Processors, and memory in MiB, as a process in the container sees them.
fn seen(w: &World) -> (u64, u64) {
    let script = "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let text = w.oci(&["exec", &w.id("c"), "sh", "-c", script]).exits(0).text();
    let mut numbers = text.lines().map(|line| line.parse().expect("a number"));
    (numbers.next().expect("processors"), numbers.next().expect("memory"))
}

/// Of the guest's memory, what is there on the host, MiB.
fn held(w: &World) -> u64 {
    let text = fs::read(w.sandbox("c").join("state.json")).expect("the saved state");
    let state: Value = serde_json::from_slice(&text).expect("JSON");
    let status = fs::read_to_string(format!("/proc/{}/status", state["machine"]["pid"])).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:"));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.expect("RssShmem") / 1024
}

fn cycles(w: &World, bundle: &mut Bundle) {
    start(w, bundle);
    let (processors, begun) = seen(w);
    assert_eq!(processors, 1);
    assert!((512..768).contains(&begun), "{begun} MiB for a limit of 512");
    for round in 0..3 {
        update(
            w,
            &json!({"memory": {"limit": 2048 * MIB}, "cpu": {"quota": 200_000, "period": 100_000}}),
        );
        let (processors, memory) = seen(w);
        assert_eq!(processors, 2, "round {round}");
        assert!((2048..2400).contains(&memory), "{memory} MiB for a limit of 2048");
        update(
            w,
            &json!({"memory": {"limit": 512 * MIB}, "cpu": {"quota": 100_000, "period": 100_000}}),
        );
        assert_eq!(seen(w), (1, begun), "round {round}");
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn moved(w: &World) {
    let mut bundle = bundle(w);
    bundle.mount("/data", "tmpfs", "tmpfs", &["size=2g"]);
    start(w, &bundle);
    update(w, &json!({"memory": {"limit": 3072 * MIB}}));
    let fill = "dd if=/dev/urandom of=/data/f bs=1M count=400 2>/dev/null; \
                dd if=/dev/zero of=/data/g bs=1M count=1000 2>/dev/null; sha256sum < /data/f";
    let before = w.oci(&["exec", &w.id("c"), "sh", "-c", fill]).exits(0).text();
    let full = held(w);
    assert!(full > 1400, "{full} MiB held with files of 1400");
    w.oci(&["exec", &w.id("c"), "rm", "/data/g"]).exits(0);
    update(w, &json!({"memory": {"limit": 1024 * MIB}}));
    let (_, memory) = seen(w);
    assert!((1024..1500).contains(&memory), "{memory} MiB for a limit of 1024");
    let sum = w.oci(&["exec", &w.id("c"), "sh", "-c", "sha256sum < /data/f"]);
    assert_eq!(sum.exits(0).text(), before, "nothing was lost");
    command::until("the host has it back", || held(w) < full - 900);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn beyond(w: &World) {
    start(w, &bundle(w));
    update(
        w,
        &json!({"memory": {"limit": 1_u64 << 50}, "cpu": {"quota": 100_000_000, "period": 100_000}}),
    );
    let (processors, memory) = seen(w);
    let host = std::thread::available_parallelism().expect("processors").get();
    assert!(processors <= u64::try_from(host).expect("a number"));
    assert!((1024..1 << 20).contains(&memory), "{memory} MiB");
    let limit = w.oci(&["exec", &w.id("c"), "cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(
        limit.exits(0).text(),
        (1_u64 << 50).to_string(),
        "the limit is as it was asked for"
    );
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn podman(w: &World) -> Verdict {
    let podman = match Podman::new(w, Suite::Host) {
        Ok(podman) => podman,
        Err(why) => return Verdict::Skipped(why),
    };
    let sleep = ["sleep", "1000"];
    let run = [
        "run",
        "--detach",
        "--name",
        "c",
        "--network",
        "none",
        "--memory",
        "512m",
        "--cpus",
        "1",
        IMAGE,
    ];
    podman.run(&[&run[..], &sleep[..]].concat()).exits(0);
    let seen = || {
        let script = "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
        let text = podman.run(&["exec", "c", "sh", "-c", script]).exits(0).text();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
        (numbers[0], numbers[1])
    };
    let begun = seen();
    podman.run(&["update", "--memory", "2g", "--cpus", "2", "c"]).exits(0);
    let (processors, memory) = seen();
    assert_eq!(processors, 2);
    assert!((2048..2400).contains(&memory), "{memory} MiB for a limit of 2048");
    podman.run(&["update", "--memory", "512m", "--cpus", "1", "c"]).exits(0);
    assert_eq!(seen(), begun);
    podman.run(&["rm", "--force", "--time", "0", "c"]).exits(0);
    Verdict::Held
}
