// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Limits of the spec as cgroup v2 shows them inside, and what stops at them. The reference has cgroup v1 on many hosts, so these
//! cases look at ours alone.

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{World, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("limits::seen_inside", seen_inside),
        ours("limits::a_fork_bomb_stops", fork_bomb),
        ours("limits::a_memory_hog_is_killed_and_reported", memory_hog),
        ours("limits::hugetlb_and_io_are_taken", |w| {
            let mut bundle = w.bundle("c", "cat /sys/fs/cgroup/io.weight /sys/fs/cgroup/hugetlb.2MB.max");
            let resources =
                json!({"blockIO": {"weight": 200}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
            bundle.set("/linux/resources", resources);
            let outcome = w.run_with("c", &bundle, b"");
            assert!(
                outcome.text().contains("4194304"),
                "{} {}",
                outcome.text(),
                outcome.stderr
            );
        }),
        ours("limits::update_changes_a_running_container", update),
        ours("limits::memory_that_is_free_goes_back_to_the_host", given_back),
        ours("limits::the_machine_grows_with_the_limit", |w| {
            let mut bundle = w.bundle("c", "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; nproc");
            bundle.set(
                "/linux/resources",
                json!({"memory": {"limit": 900_u64 << 20}, "cpu": {"quota": 200_000, "period": 100_000}}),
            );
            let seen = w.run_with("c", &bundle, b"").exits(0).text();
            let numbers: Vec<u64> = seen.lines().map(|line| line.parse().expect("a number")).collect();
            assert!(numbers[0] >= 900, "a machine of {} MiB for a limit of 900", numbers[0]);
            assert_eq!(numbers[1], 2, "a quota of two processors");
        }),
    ]
}

fn seen_inside(w: &World) {
    let script =
        "cd /sys/fs/cgroup; cat memory.max memory.low cpu.max cpu.weight pids.max cpuset.cpus; cat /proc/self/cgroup";
    let mut bundle = w.bundle("c", script);
    let resources = json!({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 77}
    });
    bundle.set("/linux/resources", resources);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    if !namespaces.contains(&json!({"type": "cgroup"})) {
        namespaces.push(json!({"type": "cgroup"}));
    }
    bundle.write();
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines, ["67108864", "33554432", "50000 100000", "20", "77", "0", "0::/"]);
}

fn fork_bomb(w: &World) {
    let script =
        "b() { b | b & }; b 2>/dev/null; sleep 3; cat /sys/fs/cgroup/pids.current; grep max /sys/fs/cgroup/pids.events";
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set("/linux/resources", json!({"pids": {"limit": 30}}));
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let seen = w.oci(&["exec", &w.id("c"), "sh", "-c", script]);
    let _ = seen;
    let stats = w.oci(&["events", "--stats", &w.id("c")]).exits(0).text();
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    let pids = stats["data"]["pids"]["current"].as_u64().expect("a count");
    assert!((1..=30).contains(&pids), "{stats}");
    assert_eq!(
        w.state("c")["status"],
        "running",
        "the bomb did not reach the guest's agent"
    );
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn memory_hog(w: &World) {
    let mut bundle = w.bundle("c", "tail /dev/zero; echo tail ended with $?; sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}}),
    );
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let log = w.sandbox("c").join("state.json");
    command::until("the OOM kill is reported", || {
        std::fs::read_to_string(&log).is_ok_and(|text| {
            let state: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            state.to_string().contains("\"oom")
        })
    });
    assert_eq!(w.state("c")["status"], "running", "only the hog was killed");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn update(w: &World) {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}),
    );
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let mut command = w.runtime();
    command.args(["update", "--resources", "-", &w.id("c")]);
    command::run(
        &mut command,
        br#"{"memory": {"limit": 50331648}, "pids": {"limit": 60}}"#,
    )
    .exits(0);
    let seen = w.oci(&[
        "exec",
        &w.id("c"),
        "cat",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/pids.max",
    ]);
    assert_eq!(seen.exits(0).text(), "50331648\n60");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn given_back(w: &World) {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.mount("/data", "tmpfs", "tmpfs", &["size=512m"]);
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let text = std::fs::read(w.sandbox("c").join("state.json")).expect("the saved state");
    let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let status = format!("/proc/{}/status", state["machine"]["pid"]);
    // What is there of the guest's memory on the host, MiB.
    let held = || {
        let text = std::fs::read_to_string(&status).expect("the hypervisor runs");
        let line = text.lines().find_map(|line| line.strip_prefix("RssShmem:"));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.expect("RssShmem") / 1024
    };
    let fill = ["dd", "if=/dev/zero", "of=/data/f", "bs=1M", "count=300"];
    w.oci(&[&["exec", &w.id("c")], &fill[..]].concat()).exits(0);
    let full = held();
    assert!(full > 300, "{full} MiB held with a file of 300 MiB");
    w.oci(&["exec", &w.id("c"), "rm", "/data/f"]).exits(0);
    command::until("memory is given back", || held() + 250 < full);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}
