// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What containers of one pod have in common, and how they come and go.

use std::fs;

use serde_json::{Value, json};
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;
use vm_tests::{Runtime, command, leak};

/// A container's or a pod's configuration with these namespaces.
fn namespaces(options: &Value) -> Value {
    json!({ "linux": { "security_context": { "namespace_options": options } } })
}

fn namespaces_of(pod: &Pod<'_>, id: &str, kind: &str) -> String {
    pod.tells(id, &format!("readlink /proc/self/ns/{kind}"))
}

pub fn shared(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::new(node, "pod");
    let (one, two) = (pod.sleeper("one", &json!({})), pod.sleeper("two", &json!({})));
    seen.see("pod: network, ipc and hostname are shared", || {
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(
                namespaces_of(&pod, &one, kind),
                namespaces_of(&pod, &two, kind),
                "{kind}"
            );
        }
        pod.start(
            "server",
            "while :; do echo pong | nc -l -p 90 127.0.0.1; done",
            &json!({}),
        );
        let ask = "nc 127.0.0.1 90 </dev/null";
        command::until("localhost is one", || pod.exec(&one, ask).text() == "pong");
        pod.tells(&one, "echo word >/dev/shm/f");
        assert_eq!(pod.tells(&two, "cat /dev/shm/f"), "word");
    });
    seen.see("pod: files, mounts and processes are each one's own", || {
        for kind in ["mnt", "pid"] {
            assert_ne!(
                namespaces_of(&pod, &one, kind),
                namespaces_of(&pod, &two, kind),
                "{kind}"
            );
        }
        pod.tells(&one, "echo mine >/tmp/f");
        assert_ne!(pod.exec(&two, "cat /tmp/f").code, 0);
    });
    seen.see("pod: one machine for all", || {
        if node.world().runtime == Runtime::Ours {
            let left = leak::left(node.world());
            let machines = left.iter().filter(|line| line.contains("kata monitor"));
            assert_eq!(machines.count(), 1, "{left:?}");
        }
    });
    pod.remove();
    seen.see("pod: processes are shared, where it says so", || {
        let common = namespaces(&json!({ "pid": "POD" }));
        let pod = Pod::with(node, "common", &common);
        let (one, two) = (
            pod.sleeper("one", &common),
            pod.start("two", "exec sleep 98765", &common),
        );
        assert_eq!(namespaces_of(&pod, &one, "pid"), namespaces_of(&pod, &two, "pid"));
        let pid = pod.tells(&one, "ps -o pid,args | awk '/98765/ && !/awk/ { print $1 }'");
        pod.tells(&one, &format!("kill -9 {pid}"));
        assert_eq!(pod.ended(&two), 137);
        pod.remove();
    });
    seen.see("pod: a container among the processes of another", || {
        let pod = Pod::new(node, "target");
        let one = pod.start("one", "exec sleep 98765", &json!({}));
        // As kubectl debug --target makes them.
        let special = namespaces(&json!({ "pid": "TARGET", "target_id": one }));
        let two = pod.sleeper("debugger", &special);
        assert!(pod.tells(&two, "ps -o args").contains("98765"));
        assert_eq!(namespaces_of(&pod, &one, "pid"), namespaces_of(&pod, &two, "pid"));
        pod.delete(&two);
        assert_eq!(pod.container(&one)["state"], "CONTAINER_RUNNING");
        pod.remove();
    });
}

pub fn comers(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::new(node, "pod");
    let data = node.world().dir().join("data");
    fs::create_dir(&data).expect("make a directory");
    let volume = json!({ "mounts": [{ "host_path": data, "container_path": "/data" }] });
    seen.see("pod: containers that prepare, one after another", || {
        for (name, script) in [("init-a", "echo a >>/data/f"), ("init-b", "echo b >>/data/f; exit 0")] {
            let id = pod.start(name, script, &volume);
            assert_eq!(pod.ended(&id), 0);
        }
        let failed = pod.start("init-c", "exit 3", &volume);
        assert_eq!(pod.ended(&failed), 3);
        assert_eq!(pod.run("main", "cat /data/f", &volume).exits(0).text(), "a\nb");
    });
    seen.see("pod: one that comes later", || {
        let early = pod.sleeper("early", &json!({}));
        pod.tells(&early, "echo word >/dev/shm/f");
        // As an ephemeral container.
        let late = pod.sleeper("late", &json!({ "stdin": true, "tty": true }));
        assert_eq!(pod.tells(&late, "cat /dev/shm/f"), "word");
        [early, late].iter().for_each(|id| pod.delete(id));
    });
    seen.see("container: its last words in a file", || {
        let file = node.world().dir().join("termination-log");
        fs::write(&file, "").expect("make a file");
        let special = json!({ "mounts": [{ "host_path": file, "container_path": "/dev/termination-log" }] });
        pod.run("last", "echo why >/dev/termination-log; exit 9", &special)
            .exits(9);
        assert_eq!(fs::read_to_string(&file).expect("read"), "why\n");
    });
    seen.see("container: made anew in a living pod", || {
        for attempt in 0..3 {
            let special = json!({ "metadata": { "name": "again", "attempt": attempt }, "log_path": format!("again{attempt}.log") });
            let id = pod.start("again", &format!("echo {attempt}; exit {attempt}"), &special);
            assert_eq!(pod.ended(&id), attempt);
            pod.until_logged(&format!("again{attempt}"), |log| log == format!("{attempt}\n"));
        }
    });
    seen.see("pod: ten containers", || {
        let ids: Vec<String> = (0..10)
            .map(|number| {
                pod.sleeper(
                    &format!("c{number}"),
                    &json!({ "envs": [{ "key": "N", "value": number.to_string() }] }),
                )
            })
            .collect();
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(pod.tells(id, "echo $N; hostname >/tmp/f"), number.to_string());
        }
        let list = pod
            .cri
            .call("ListContainers", &json!({ "filter": { "pod_sandbox_id": pod.id } }));
        let running = list["containers"].as_array().expect("a list").iter();
        assert_eq!(running.filter(|one| one["state"] == "CONTAINER_RUNNING").count(), 10);
    });
    pod.remove();
}
