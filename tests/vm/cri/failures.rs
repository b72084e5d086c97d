// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is left, and what still works, when something was killed.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;
use vm_tests::{Runtime, command, leak};

/// Processes of this node with `word` in their command line.
fn processes(node: &Node<'_>, word: &str) -> Vec<i32> {
    let left = leak::left(node.world());
    let lines = left.iter().filter(|line| line.contains(word));
    lines
        .filter_map(|line| line.strip_prefix("process ")?.split(' ').next()?.parse().ok())
        .collect()
}

/// The hypervisor, a child of the pod's monitor.
fn hypervisor(node: &Node<'_>) -> i32 {
    let monitors = processes(node, "kata monitor");
    assert_eq!(monitors.len(), 1, "{monitors:?}");
    let mut search = Command::new("pgrep");
    search.args(["--parent", &monitors[0].to_string(), "qemu"]);
    let found = command::run(&mut search, b"").exits(0).text();
    found.parse().expect("one pid")
}

#[track_caller]
fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
}

/// Neither it nor what it has is left, and the node is as good as before.
#[track_caller]
fn recovers(node: &Node<'_>, pod: &Pod<'_>, id: &str) {
    pod.remove();
    command::until("its processes have ended", || processes(node, &pod.id).is_empty());
    for id in [&pod.id, id] {
        let state = Path::new("/run/containerd/kata/k8s.io").join(id);
        command::until("its state is gone", || !state.exists());
    }
    let next = Pod::new(node, "next");
    assert_eq!(next.run("a", "echo in", &json!({})).exits(0).text(), "in");
    next.remove();
}

/// Waits until the pod and its container have ended.
#[track_caller]
fn down(pod: &Pod<'_>, id: &str) {
    command::until("the container has ended", || {
        pod.container(id)["state"] == "CONTAINER_EXITED"
    });
    let request = json!({ "pod_sandbox_id": pod.id });
    command::until("the pod has ended", || {
        // containerd asks a shim that was killed until it has seen its end.
        let told = pod.cri.ask("PodSandboxStatus", &request);
        told.is_ok_and(|told| told["status"]["state"] == "SANDBOX_NOTREADY")
    });
}

pub fn killed(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    seen.see("killed: containerd, and started again", || {
        let mut pod = Pod::new(node, "kept");
        let lines = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";
        let id = pod.start("a", lines, &json!({}));
        let short = pod.start(
            "b",
            "while [ ! -e /dev/shm/go ]; do sleep 0.1; done; exit 6",
            &json!({}),
        );
        pod.until_logged("a", |log| log.lines().count() > 3);
        node.restart(Signal::SIGKILL);
        pod.cri = node.cri();
        assert_eq!(pod.status()["state"], "SANDBOX_READY");
        pod.tells(&id, "touch /dev/shm/go");
        assert_eq!(pod.ended(&short), 6);
        let before = pod.log("a", "stdout").lines().count();
        pod.until_logged("a", |log| log.lines().count() > before + 3);
        let later = pod.start("c", "exit 4", &json!({}));
        assert_eq!(pod.ended(&later), 4);
        recovers(node, &pod, &id);
    });
    seen.see("killed: the shim", || {
        let pod = Pod::new(node, "shim");
        let id = pod.sleeper("a", &json!({}));
        let kind = match node.world().runtime {
            Runtime::Reference => "containerd-shim-runc-v2",
            Runtime::Ours => "containerd-shim-kata-v2",
        };
        let shims = processes(node, kind);
        assert_eq!(shims.len(), 1, "{shims:?}");
        kill_hard(shims[0]);
        down(&pod, &id);
        recovers(node, &pod, &id);
    });
    if node.world().runtime == Runtime::Reference {
        return;
    }
    for (what, victim) in [
        ("killed: the machine", hypervisor as fn(&Node<'_>) -> i32),
        ("killed: the monitor", |node| processes(node, "kata monitor")[0]),
    ] {
        seen.see(what, || {
            let pod = Pod::new(node, "machine");
            let id = pod.sleeper("a", &json!({}));
            kill_hard(victim(node));
            down(&pod, &id);
            assert_eq!(pod.ended(&id), 137);
            recovers(node, &pod, &id);
        });
    }
}
