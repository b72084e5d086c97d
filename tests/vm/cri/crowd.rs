// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Many pods and many containers, at once and one after another: nothing piles up, and nothing is left.

use std::fs;
use std::process::Command;
use std::thread;

use serde_json::json;
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;
use vm_tests::{Runtime, Verdict, command, leak};

use crate::scale::{alone, bounded};

/// Containers that one pod has, one after another.
const RESTARTS: usize = 50;
/// Of these, the first and the last are compared.
const COMPARED: usize = 10;
/// What is looked at, and by how much it may have grown from the first to the last.
const GROWTH: [(&str, i64); 5] = [
    ("KiB of the monitor", 4 << 10),
    ("KiB of the device process", 4 << 10),
    ("KiB of the machine", 8 << 10),
    ("open files of the monitor", 10),
    ("open files of the device process", 100),
];
/// Pods that are run and removed at once, twice.
const CHURN: usize = 20;
/// Pods that live at once.
const CROWD: usize = 30;

/// Whether the cases that take long are wanted.
pub fn wanted() -> Result<(), Verdict> {
    if std::env::var_os("KATA_TEST_CRI").is_none() {
        return Err(Verdict::Skipped("takes long: make cri".into()));
    }
    Ok(())
}

/// The pod's monitor and its device process.
fn processes(node: &Node<'_>) -> [String; 2] {
    let left = leak::left(node.world());
    let line = left.iter().find(|line| line.contains("kata monitor"));
    let monitor = line.and_then(|line| line.split(' ').nth(1)).expect("a monitor");
    let mut search = Command::new("pgrep");
    search.args(["--parent", monitor, "--full", "kata device"]);
    let device = command::run(&mut search, b"").exits(0).text();
    [monitor.to_owned(), device]
}

/// KiB of memory of a process that nobody shares.
fn own(pid: &str) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let own = text
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<i64>().ok());
    own.sum()
}

/// How many files a process has open.
fn files(pid: &str) -> i64 {
    let count = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count();
    i64::try_from(count).expect("a number")
}

/// KiB of the machine's memory that are in use and cannot be given up.
fn machine(pod: &Pod<'_>, id: &str) -> i64 {
    let text = pod.tells(id, "awk '/^(MemTotal|MemAvailable)/ { print $2 }' /proc/meminfo");
    let numbers: Vec<i64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    numbers[0] - numbers[1]
}

pub fn restarts(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    seen.see("container: made anew 50 times in one pod, memory stays", || {
        let pod = Pod::new(node, "pod");
        let watcher = pod.sleeper("watcher", &json!({}));
        let mut used = Vec::new();
        for attempt in 0..RESTARTS {
            let special = json!({ "metadata": { "name": "again", "attempt": attempt } });
            let script = format!("(echo {attempt} >/tmp/f; cat /tmp/f)");
            assert_eq!(pod.run("again", &script, &special).exits(0).text(), attempt.to_string());
            if node.world().runtime == Runtime::Ours {
                let [monitor, device] = processes(node);
                used.push([
                    own(&monitor),
                    own(&device),
                    machine(&pod, &watcher),
                    files(&monitor),
                    files(&device),
                ]);
            }
        }
        for (place, (name, growth)) in GROWTH.iter().enumerate() {
            let (Some(first), Some(rest)) = (used.get(..COMPARED), used.get(RESTARTS - COMPARED..)) else {
                break;
            };
            let mean = |some: &[[i64; 5]]| some.iter().map(|one| one[place]).sum::<i64>() / 10;
            let (first, last) = (mean(first), mean(rest));
            println!("{name}: {first} in the first {COMPARED} of {RESTARTS} containers, {last} in the last");
            assert!(last - first < *growth, "{name}: {used:?}");
        }
        pod.remove();
    });
}

/// Each pod in a thread of its own.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

pub fn churn(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    seen.see("pod: 2 × 20 run and removed at once", || {
        for _ in 0..2 {
            at_once(CHURN, |number| {
                let pod = Pod::new(node, &format!("p{number}"));
                pod.sleeper("a", &json!({}));
                pod.remove();
            });
        }
        let pods = node.cri().call("ListPodSandbox", &json!({}));
        assert_eq!(pods["items"], json!([]));
    });
}

pub fn pods(node: &Node<'_>, seen: &mut Behaviours<'_>) -> Verdict {
    let _alone = alone();
    let count = match bounded(CROWD) {
        Ok(count) => count,
        Err(skipped) => return skipped,
    };
    seen.see("pod: 30 at once", || {
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        let pods: Vec<(Pod<'_>, String)> = names
            .iter()
            .map(|name| {
                let pod = Pod::new(node, name);
                let id = pod.sleeper("a", &json!({ "envs": [{ "key": "NAME", "value": name }] }));
                (pod, id)
            })
            .collect();
        for ((pod, id), name) in pods.iter().zip(&names) {
            assert_eq!(pod.status()["state"], "SANDBOX_READY", "{name}");
            assert_eq!(pod.tells(id, "echo $NAME"), *name);
        }
        // Far ones reach each other.
        let ask = format!(
            "ping -c 1 -W 20 {} >/dev/null && echo reached",
            pods[count - 1].0.address()
        );
        assert_eq!(pods[0].0.tells(&pods[0].1, &ask), "reached");
        for (pod, _) in &pods {
            pod.remove();
        }
    });
    Verdict::Held
}
