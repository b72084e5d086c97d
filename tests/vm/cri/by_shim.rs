// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Pods that containerd leaves to the shim: what the service for them says, and what stays when their containers go.

use std::thread;

use api::task::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use serde_json::json;
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;
use vm_tests::shim::{self, call, refused};
use vm_tests::{command, leak};

pub fn stays(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let common = json!({
        "hostname": "shop",
        "linux": {
            "sysctls": { "kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80" },
            "security_context": { "namespace_options": { "pid": "POD" } }
        }
    });
    let member = json!({ "linux": { "security_context": { "namespace_options": { "pid": "POD" } } } });
    let pod = Pod::with(node, "pod", &common);
    seen.see("pod: host name, sysctls and memory stay when all containers have gone", || {
        let script = "hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
        let read = "hostname; cat /etc/hostname /dev/shm/f; for kind in ipc uts pid; do readlink /proc/self/ns/$kind; done";
        let first = pod.start("first", "trap 'exit 0' TERM; sleep 100000 & wait", &member);
        assert_eq!(pod.tells(&first, script), "shop\n1\n80");
        pod.tells(&first, "echo word >/dev/shm/f; grep -q localhost /etc/hosts; test -s /etc/resolv.conf");
        let before = pod.tells(&first, read);
        assert!(before.starts_with("shop\nshop\nword\n"), "{before}");
        pod.delete(&first);
        assert_eq!(pod.status()["state"], "SANDBOX_READY");
        let second = pod.sleeper("second", &member);
        assert_eq!(pod.tells(&second, read), before);
        pod.delete(&second);
    });
    seen.see("pod: its first process takes what others leave", || {
        let id = pod.sleeper("parent", &member);
        assert_eq!(pod.tells(&id, "tr -d '\\0' </proc/1/cmdline"), "/pause");
        pod.tells(&id, "for i in 1 2 3; do (sleep 0.1 & ) ; done");
        command::until("they have gone", || {
            pod.tells(&id, "ps -o stat,args | grep -c '[Ss]leep 0.1' || true") == "0"
        });
        assert_eq!(pod.tells(&id, "ps -o stat | grep -c Z || true"), "0");
    });
    seen.see("pod: ends with its first process", || {
        let id = pod.sleeper("murderer", &member);
        pod.exec(&id, "kill 1; sleep 100");
        command::until("the pod has ended", || pod.status()["state"] == "SANDBOX_NOTREADY");
        assert_eq!(pod.ended(&id), 137);
    });
    pod.remove();
    command::until("no process of it is left", || {
        !leak::left(node.world()).iter().any(|line| line.contains(&pod.id))
    });
}

pub fn service(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::new(node, "pod");
    let id = pod.id.clone();
    let bundle = shim::bundle(node.world(), &id);
    let client = shim::client(&bundle);
    let status = |id: &str| {
        let mut request = SandboxStatusRequest::new();
        request.sandbox_id = id.to_owned();
        client.sandbox_status(call(), &request)
    };
    seen.see("sandbox service: status, platform, ping", || {
        let told = status(&id).expect("it is there");
        assert_eq!(
            (told.sandbox_id.as_str(), told.state.as_str()),
            (id.as_str(), "SANDBOX_READY")
        );
        assert!(
            told.pid > 1 && told.created_at.seconds > 0 && told.exited_at.is_none(),
            "{told:?}"
        );
        let network = format!("/proc/{}/ns/net", told.pid);
        assert!(std::fs::read_link(network).is_ok(), "its pid leads to its network");
        let platform = client.platform(call(), &PlatformRequest::new()).expect("a platform");
        assert_eq!(platform.platform.os, "linux");
        assert!(!platform.platform.architecture.is_empty());
        client.ping_sandbox(call(), &PingRequest::new()).expect("it answers");
    });
    seen.see("sandbox service: numbers of all containers", || {
        let container = pod.sleeper("a", &json!({}));
        let mut request = SandboxMetricsRequest::new();
        request.sandbox_id = id.clone();
        let size = || {
            let answer = client.sandbox_metrics(call(), &request).expect("they are told");
            assert_eq!(answer.metrics.id, id);
            let any = answer.metrics.data.clone().unwrap_or_default();
            assert!(any.type_url.starts_with("io.containerd.cgroups.v"), "{any:?}");
            any.value.len()
        };
        assert!(size() > 0);
        pod.delete(&container);
        assert!(size() > 0);
    });
    seen.see("sandbox service: what makes no sense is refused", || {
        let mut create = CreateSandboxRequest::new();
        create.sandbox_id = id.clone();
        create.bundle_path = bundle.to_string_lossy().into_owned();
        let (code, why) = refused(client.create_sandbox(call(), &create));
        assert!(code == ttrpc::Code::ALREADY_EXISTS && why.contains(&id), "{why}");
        let mut start = StartSandboxRequest::new();
        start.sandbox_id = id.clone();
        let (code, why) = refused(client.start_sandbox(call(), &start));
        assert!(
            code == ttrpc::Code::FAILED_PRECONDITION && why.contains("started before"),
            "{why}"
        );
        let (code, why) = refused(status("nobody"));
        assert!(code == ttrpc::Code::NOT_FOUND && why.contains("nobody"), "{why}");
    });
    seen.see("sandbox service: who waits is told of the end", || {
        let waiter = {
            let (client, id) = (client.clone(), id.clone());
            thread::spawn(move || {
                let mut wait = WaitSandboxRequest::new();
                wait.sandbox_id = id;
                client.wait_sandbox(call(), &wait)
            })
        };
        let mut stop = StopSandboxRequest::new();
        stop.sandbox_id = id.clone();
        stop.timeout_secs = 60;
        client.stop_sandbox(call(), &stop).expect("it ends");
        let ended = waiter.join().expect("the thread").expect("its end is told");
        assert_eq!(ended.exit_status, 137);
        let told = status(&id).expect("it is known until it is removed");
        assert_eq!(
            (told.state.as_str(), told.exited_at.is_some()),
            ("SANDBOX_NOTREADY", true)
        );
        // Once more is no mistake.
        client.stop_sandbox(call(), &stop).expect("it has ended");
    });
    pod.remove();
}
