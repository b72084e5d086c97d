// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Pods and containers from their beginning to their end, and what they may use and do use.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vm_tests::behaviour::Behaviours;
use vm_tests::cri::number;
use vm_tests::node::{Node, Sandboxer};
use vm_tests::pod::Pod;
use vm_tests::{Runtime, command};

use crate::everyday::on_its_kernel;

/// Those that match `filter`.
fn listed(pod: &Pod<'_>, method: &str, list: &str, filter: &Value) -> Vec<Value> {
    let answer = pod.cri.call(method, &json!({ "filter": filter }));
    answer[list].as_array().expect("a list").clone()
}

pub fn pods(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::with(
        node,
        "one",
        &json!({
            "hostname": "shop", "annotations": { "note": "kept" }, "port_mappings": [{ "container_port": 80, "host_port": 8080 }],
            "dns_config": { "servers": ["10.9.8.7"], "searches": ["shop.test"], "options": ["ndots:3"] },
        }),
    );
    seen.see("pod: run, status, list", || {
        let status = pod.status();
        assert_eq!(status["state"], "SANDBOX_READY");
        assert_eq!(status["metadata"]["name"], "one");
        assert_eq!(status["annotations"]["note"], "kept");
        assert!(pod.address().starts_with("10.88."), "{status}");
        for filter in [json!({ "id": pod.id }), json!({ "label_selector": { "pod": "one" } })] {
            let found = listed(&pod, "ListPodSandbox", "items", &filter);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0]["id"], pod.id);
        }
    });
    seen.see("container: create, status, start, exit code", || {
        let id = pod
            .try_create("a", "uname -r; exit 3", &json!({ "annotations": { "note": "kept" } }))
            .expect("create");
        let status = pod.container(&id);
        assert_eq!(
            (&status["state"], &status["annotations"]["note"]),
            (&json!("CONTAINER_CREATED"), &json!("kept"))
        );
        pod.cri.call("StartContainer", &json!({ "container_id": id }));
        assert_eq!(pod.ended(&id), 3);
        let status = pod.container(&id);
        assert_eq!(status["reason"], "Error");
        let [created, started, finished] =
            ["created_at", "started_at", "finished_at"].map(|name| number(&status[name]));
        // Its end may come before the answer to its start.
        assert!(created > 0 && created < started && created < finished, "{status}");
        pod.until_logged("a", |log| log.ends_with('\n'));
        on_its_kernel(node.world(), pod.log("a", "stdout").trim());
        pod.delete(&id);
        let why = pod
            .cri
            .ask("ContainerStatus", &json!({ "container_id": id }))
            .expect_err("it is gone");
        assert!(why.contains("not found"), "{why}");
    });
    seen.see("container: what cannot start", || {
        let why = pod
            .try_start("b", "", &json!({ "command": ["/nosuch"] }))
            .expect_err("no such program");
        assert!(why.contains("no such file"), "{why}");
        let status = listed(
            &pod,
            "ListContainers",
            "containers",
            &json!({ "label_selector": { "container": "b" } }),
        );
        let id = status[0]["id"].as_str().expect("an id");
        assert_eq!(pod.ended(id), 128);
        pod.delete(id);
    });
    seen.see("container: list, stop within the grace period", || {
        let id = pod.start("c", "trap 'exit 7' TERM; while :; do sleep 0.1; done", &json!({}));
        let found = listed(
            &pod,
            "ListContainers",
            "containers",
            &json!({ "pod_sandbox_id": pod.id }),
        );
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&found[0]["id"], &found[0]["state"]),
            (&json!(id), &json!("CONTAINER_RUNNING"))
        );
        // It has its handler as soon as it sleeps.
        command::until("the handler is there", || pod.exec(&id, "pidof sleep").code == 0);
        pod.cri
            .call("StopContainer", &json!({ "container_id": id, "timeout": 60 }));
        assert_eq!(pod.ended(&id), 7);
        pod.delete(&id);
    });
    seen.see("container: stop by force, remove while it runs", || {
        let deaf = "trap '' TERM; while :; do sleep 0.1; done";
        let id = pod.start("d", deaf, &json!({}));
        pod.cri
            .call("StopContainer", &json!({ "container_id": id, "timeout": 1 }));
        assert_eq!(pod.ended(&id), 137);
        pod.delete(&id);
        let id = pod.start("d", deaf, &json!({}));
        pod.delete(&id);
        assert!(listed(&pod, "ListContainers", "containers", &json!({ "id": id })).is_empty());
    });
    seen.see("container: image, command, args, working directory, environment", || {
        let special = json!({
            "command": ["sh"], "args": ["-c", "pwd; echo $GIVEN"], "working_dir": "/tmp", "envs": [{ "key": "GIVEN", "value": "a b" }]
        });
        let id = pod.start("e", "", &special);
        pod.until_logged("e", |log| log == "/tmp\na b\n");
        // containerd 2 stops nothing that is about to end.
        pod.ended(&id);
        pod.delete(&id);
    });
    let id = pod.start(
        "web",
        "mkdir /w; echo page >/w/index.html; exec busybox httpd -f -p 80 -h /w",
        &json!({}),
    );
    seen.see("pod: hostname, name servers", || {
        assert_eq!(pod.tells(&id, "hostname"), "shop");
        let resolver = pod.tells(&id, "cat /etc/resolv.conf");
        for line in ["nameserver 10.9.8.7", "search shop.test", "options ndots:3"] {
            assert!(resolver.contains(line), "{resolver}");
        }
    });
    seen.see("pod: address, published port", || {
        for url in [
            format!("http://{}/", pod.address()),
            "http://10.88.0.1:8080/".to_owned(),
        ] {
            let ask = ["curl", "--silent", "--max-time", "5", &url];
            command::until("the page is served", || {
                command::run(node.enter().args(ask), b"").text() == "page"
            });
        }
    });
    seen.see("pod: two reach each other", || {
        let other = Pod::new(node, "two");
        let page = format!("busybox wget -qO- http://{}/", pod.address());
        assert_eq!(other.run("a", &page, &json!({})).exits(0).text(), "page");
        other.remove();
    });
    seen.see("container and pod: statistics", || {
        pod.tells(
            &id,
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 3000000 /dev/zero >/dev/shm/kept",
        );
        let of = |method: &str, name: &str, id: &str| pod.cri.call(method, &json!({ name: id }))["stats"].clone();
        command::until("memory and time are counted", || {
            let stats = of("ContainerStats", "container_id", &id);
            let memory = number(&stats["memory"]["working_set_bytes"]["value"]);
            let time = number(&stats["cpu"]["usage_core_nano_seconds"]["value"]);
            (3_000_000..200_000_000).contains(&memory) && (1_000_000..60_000_000_000).contains(&time)
        });
        let stats = of("PodSandboxStats", "pod_sandbox_id", &pod.id);
        let linux = &stats["linux"];
        assert!(number(&linux["memory"]["usage_bytes"]["value"]) > 0, "{stats}");
        assert!(number(&linux["cpu"]["usage_core_nano_seconds"]["value"]) > 0, "{stats}");
        assert_eq!(linux["network"]["default_interface"]["name"], "eth0");
        assert!(
            number(&linux["network"]["default_interface"]["rx_bytes"]["value"]) > 0,
            "{stats}"
        );
        assert_eq!(linux["containers"].as_array().map(Vec::len), Some(1));
    });
    let hosts = "pod: the host's network";
    if restricted(node) {
        seen.cannot(
            hosts,
            "containerd 2.1 itself ends (a nil spec) before it asks a shim for one",
        );
    } else {
        seen.see(hosts, || of_the_host(node));
    }
    seen.see("pod: stop, remove", || {
        pod.stop();
        assert_eq!(pod.status()["state"], "SANDBOX_NOTREADY");
        assert_eq!(pod.ended(&id), 137);
        // Once more, as the kubelet does.
        pod.remove();
        assert!(listed(&pod, "ListPodSandbox", "items", &json!({ "id": pod.id })).is_empty());
        pod.cri.call("RemovePodSandbox", &json!({ "pod_sandbox_id": pod.id }));
    });
    seen.see("pod: nothing is left of those that were removed", || {
        let states = Path::new("/run/containerd/kata/k8s.io").join(&pod.id);
        assert!(!states.exists(), "{} is left", states.display());
        let networks = node.world().dir().join("engine/state/io.containerd.grpc.v1.cri/netns");
        let left = Command::new("ls").arg("-A").arg(&networks).output().expect("ls");
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    });
}

/// containerd 2.1 can do less with pods of the shim's making than others.
fn restricted(node: &Node<'_>) -> bool {
    let by_shim = node.world().runtime == Runtime::Ours && node.sandboxer() == Sandboxer::Shim;
    by_shim && node.client().contains(" 2.1.")
}

/// The configuration says two processors.
pub fn configured(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let what = "pod: the configuration that the runtime's options name";
    if restricted(node) {
        seen.cannot(
            what,
            "there containerd 2.1 makes no container with options that are not runc's",
        );
        return;
    }
    seen.see(what, || {
        let pod = Pod::new(node, "pod");
        assert_eq!(pod.run("a", "nproc", &json!({})).exits(0).text(), "2");
        pod.remove();
    });
}

fn of_the_host(node: &Node<'_>) {
    let special = json!({ "linux": { "security_context": { "namespace_options": { "network": "NODE" } } } });
    let made = Pod::try_with(node, "host", &special);
    if node.world().runtime == Runtime::Reference {
        made.expect("the reference has it").remove();
        return;
    }
    let why = made.map(|pod| pod.id).expect_err("a machine has its own network");
    assert!(why.contains("network") && why.contains("host"), "{why}");
}

/// Whatever the version of the machine's control groups is.
fn limit(pod: &Pod<'_>, id: &str, one: &str, two: &str) -> String {
    pod.tells(
        id,
        &format!("cat /sys/fs/cgroup/{one} 2>/dev/null || cat /sys/fs/cgroup/{two}"),
    )
}

fn memory(pod: &Pod<'_>, id: &str) -> i64 {
    let text = limit(pod, id, "memory/memory.limit_in_bytes", "memory.max");
    text.trim().parse().unwrap_or(i64::MAX)
}

/// Quota and period.
fn time(pod: &Pod<'_>, id: &str) -> String {
    let script = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || \
                  echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us) $(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)";
    pod.tells(id, script)
}

pub fn resources(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let sized = json!({ "linux": { "resources": { "cpu_period": 100_000, "cpu_quota": 150_000, "memory_limit_in_bytes": 400 << 20 } } });
    let pod = Pod::with(node, "sized", &sized);
    let given = json!({ "linux": { "resources": {
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20
    } } });
    let id = pod.sleeper("a", &given);
    seen.see("resources: limits of processor and memory", || {
        assert_eq!(memory(&pod, &id), 64 << 20);
        assert_eq!(time(&pod, &id), "50000 100000");
    });
    seen.see("resources: updated in place, up and down", || {
        for (quota, mib) in [(80_000, 128_i64), (30_000, 96)] {
            let linux = json!({ "cpu_period": 100_000, "cpu_quota": quota, "memory_limit_in_bytes": mib << 20 });
            pod.cri.call(
                "UpdateContainerResources",
                &json!({ "container_id": id, "linux": linux }),
            );
            assert_eq!(memory(&pod, &id), mib << 20);
            assert_eq!(time(&pod, &id), format!("{quota} 100000"));
        }
    });
    seen.see("resources: more memory than the pod had", || {
        let special = json!({ "linux": { "resources": { "memory_limit_in_bytes": 900_i64 << 20 } } });
        let script = "dd if=/dev/zero of=/dev/null bs=450M count=1 2>&1";
        let text = pod.run("large", script, &special).exits(0).text();
        assert!(text.contains("1+0 records out"), "{text}");
    });
    seen.see("resources: killed for want of memory", || {
        let special = json!({ "linux": { "resources": { "memory_limit_in_bytes": 30_000_000 } } });
        let id = pod.start("eater", "exec tail /dev/zero", &special);
        assert_eq!(pod.ended(&id), 137);
        command::until("the reason is told", || pod.container(&id)["reason"] == "OOMKilled");
        pod.delete(&id);
    });
    pod.remove();
}
