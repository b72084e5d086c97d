// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a pod's and a container's security context says, as it is seen from inside.

use std::fs;

use serde_json::{Value, json};
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;

/// A container with `context`: what `script` prints in it.
#[track_caller]
fn with(pod: &Pod<'_>, context: &Value, script: &str) -> String {
    let special = json!({ "linux": { "security_context": context } });
    pod.run("with", script, &special).exits(0).text()
}

/// A profile that refuses to make directories.
const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]
}"#;

pub fn contexts(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::with(
        node,
        "pod",
        &json!({ "linux": { "sysctls": { "kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80" } } }),
    );
    seen.see("security: user, group, further groups", || {
        let context = json!({
            "run_as_user": { "value": 1000 }, "run_as_group": { "value": 77 }, "supplemental_groups": [5, 6]
        });
        assert_eq!(with(&pod, &context, "id -u; id -g; id -G"), "1000\n77\n77 5 6");
        assert_eq!(
            with(&pod, &json!({ "run_as_username": "user" }), "id -u; id -g"),
            "1000\n1000"
        );
        let special = json!({ "linux": { "security_context": { "run_as_username": "nobody-here" } } });
        pod.try_start("unknown", "true", &special).expect_err("no such user");
    });
    seen.see("security: read-only root", || {
        let text = with(
            &pod,
            &json!({ "readonly_rootfs": true }),
            "touch /a 2>&1; touch /dev/shm/a && echo written",
        );
        assert!(text.contains("Read-only") && text.ends_with("written"), "{text}");
    });
    let capabilities = "grep CapEff /proc/self/status | cut -f 2";
    seen.see("security: capabilities", || {
        let only = json!({ "capabilities": { "drop_capabilities": ["ALL"], "add_capabilities": ["CHOWN", "NET_ADMIN"] } });
        assert_eq!(with(&pod, &only, capabilities), "0000000000001001");
        let less = json!({ "capabilities": { "drop_capabilities": ["CHOWN"] } });
        assert_eq!(with(&pod, &less, "touch /f; chown 5 /f 2>&1 | grep -c 'not permitted'"), "1");
        let more = json!({ "capabilities": { "add_capabilities": ["SYS_ADMIN"] }, "seccomp": { "profile_type": "Unconfined" } });
        assert_eq!(with(&pod, &more, "mkdir /m; mount -t tmpfs none /m && echo mounted"), "mounted");
    });
    seen.see("security: no new privileges", || {
        let look = "grep NoNewPrivs /proc/self/status | cut -f 2";
        assert_eq!(with(&pod, &json!({ "no_new_privs": true }), look), "1");
        assert_eq!(with(&pod, &json!({}), look), "0");
    });
    let mode = "grep Seccomp: /proc/self/status | cut -f 2";
    seen.see("security: seccomp of the runtime, none, and a profile", || {
        let seccomp =
            |kind: &str, profile: &str| json!({ "seccomp": { "profile_type": kind, "localhost_ref": profile } });
        assert_eq!(with(&pod, &seccomp("RuntimeDefault", ""), mode), "2");
        assert_eq!(with(&pod, &seccomp("Unconfined", ""), mode), "0");
        let file = node.world().dir().join("profile.json");
        fs::write(&file, PROFILE).expect("write");
        let profile = seccomp("Localhost", &file.to_string_lossy());
        let script = "mkdir /d 2>&1 | grep -c 'not permitted'; touch /f && ls /f";
        assert_eq!(with(&pod, &profile, script), "1\n/f");
        // Further processes have it, too.
        let id = pod.sleeper("filtered", &json!({ "linux": { "security_context": profile } }));
        assert!(pod.exec(&id, "mkdir /d").stderr.contains("not permitted"));
        pod.delete(&id);
        let missing = json!({ "linux": { "security_context": seccomp("Localhost", "/nosuch/profile.json") } });
        let why = pod.try_start("missing", "true", &missing).expect_err("no such profile");
        assert!(why.contains("/nosuch/profile.json"), "{why}");
    });
    seen.see("security: apparmor where there is none", || {
        let special = json!({ "linux": { "security_context": { "apparmor": { "profile_type": "Localhost", "localhost_ref": "some" } } } });
        let why = pod.try_start("armoured", "true", &special).expect_err("no apparmor here");
        assert!(why.to_lowercase().contains("apparmor"), "{why}");
        assert_eq!(with(&pod, &json!({ "apparmor": { "profile_type": "Unconfined" } }), "echo in"), "in");
    });
    seen.see("security: masked and read-only paths", || {
        let context = json!({ "masked_paths": ["/proc/keys", "/tmp"], "readonly_paths": ["/etc"] });
        let text = with(
            &pod,
            &context,
            "wc -c </proc/keys; touch /tmp/a 2>&1; touch /etc/a 2>&1 || true",
        );
        assert!(
            text.starts_with("0\n") && text.matches("Read-only").count() == 2,
            "{text}"
        );
    });
    seen.see("security: a device of the host's", || {
        let special = json!({ "devices": [{ "container_path": "/dev/nothing", "host_path": "/dev/null", "permissions": "rwm" }] });
        assert_eq!(pod.run("device", "echo a >/dev/nothing && stat -c %t:%T /dev/nothing", &special).exits(0).text(), "1:3");
    });
    let id = pod.sleeper("plain", &json!({}));
    seen.see("pod: sysctls", || {
        let look = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
        assert_eq!(pod.tells(&id, look), "1\n80");
    });
    seen.see("pod: size of /dev/shm", || {
        assert_eq!(pod.tells(&id, "df -k /dev/shm | awk 'END {print $2}'"), "65536");
    });
    seen.see("pod: a sysctl that does not exist is refused", || {
        let special = json!({ "linux": { "sysctls": { "net.nosuch.thing": "1" } } });
        let why = Pod::try_with(node, "sysctl", &special)
            .map(|pod| pod.id)
            .expect_err("no such thing");
        assert!(why.contains("nosuch"), "{why}");
    });
    pod.remove();
    seen.see("security: privileged", || {
        let context = json!({ "linux": { "security_context": { "privileged": true } } });
        let pod = Pod::with(node, "privileged", &context);
        let script = format!("{mode}; mkdir /m; mount -t tmpfs none /m && echo mounted; touch /proc/sys/kernel/domainname && echo written");
        assert_eq!(pod.run("a", &script, &context).exits(0).text(), "0\nmounted\nwritten");
        pod.remove();
    });
}
