// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The `process` object and the namespaces of the OCI runtime specification, looked at from inside.

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{Runtime, World, both, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        both("process::user_groups_umask", user_groups_umask),
        both("process::environment_and_cwd", environment_and_cwd),
        both("process::capabilities", capabilities),
        both("process::no_new_privileges", no_new_privileges),
        both("process::rlimits", rlimits),
        both("process::seccomp", seccomp),
        both("process::seccomp_of_exec", seccomp_of_exec),
        both("process::hostname_and_pid_namespace", hostname_and_pid_namespace),
        both("process::sysctl", sysctl),
        both("process::user_namespace", user_namespace),
        both("process::standard_descriptors_only", |w| {
            let seen = w.sh("ls /proc/self/fd | wc -l").exits(0).text();
            assert_eq!(seen.trim(), "4", "0, 1, 2 and the one that reads the directory");
        }),
        both("process::a_signal_that_kills_gives_128_plus_n", |w| {
            w.sh("sh -c 'kill -9 $$'; exit $?").exits(137);
        }),
        both("process::start_container_hook", start_container_hook),
        both("process::host_hooks", host_hooks),
        both("process::a_command_line_on_the_host", command_line),
        ours("process::a_host_namespace_is_refused", |w| {
            let mut bundle = w.bundle("c", "true");
            bundle.set(
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "uts"}, {"type": "network"}, {"type": "pid", "path": "/proc/1/ns/pid"}]),
            );
            w.run_with("c", &bundle, b"").refuses(&["pid", "namespace"]);
        }),
    ]
}

fn user_groups_umask(w: &World) {
    let mut bundle = w.bundle("c", "id -u; id -g; id -G; umask; touch /tmp/f; stat -c %a /tmp/f");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(bundle.rootfs().join("tmp"), open).expect("open /tmp");
    bundle.set(
        "/process/user",
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 23}),
    );
    assert_eq!(
        w.run_with("c", &bundle, b"").exits(0).text(),
        "1000\n1001\n1001 5 6\n0027\n640"
    );
}

fn environment_and_cwd(w: &World) {
    let mut bundle = w.bundle("c", "echo \"$A|$B|$HOME\"; pwd");
    bundle.set("/process/env", json!(["PATH=/bin", "A=1 2", "B="]));
    bundle.set("/process/cwd", json!("/made/for/it"));
    assert_eq!(
        w.run_with("c", &bundle, b"").exits(0).text(),
        "1 2||/root\n/made/for/it"
    );
}

fn capabilities(w: &World) {
    let mut bundle = w.bundle("c", "grep ^Cap /proc/self/status");
    let set = json!(["CAP_KILL", "CAP_CHOWN"]);
    let none = json!([]);
    bundle.set(
        "/process/capabilities",
        json!({"bounding": set, "effective": set, "permitted": set, "inheritable": none, "ambient": none}),
    );
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(seen.contains(&format!("{name}:\t0000000000000021")), "{seen}");
    }
    assert!(seen.contains("CapAmb:\t0000000000000000"), "{seen}");
    bundle.set("/process/args", json!(["chown", "1:1", "/tmp"]));
    w.run_with("c", &bundle, b"").exits(0);
    bundle.set("/process/args", json!(["mount", "-t", "tmpfs", "x", "/tmp"]));
    assert_ne!(w.run_with("c", &bundle, b"").code, 0, "no CAP_SYS_ADMIN, no mount");
}

fn no_new_privileges(w: &World) {
    let mut bundle = w.bundle("c", "grep NoNewPrivs /proc/self/status");
    for (wanted, seen) in [(true, "NoNewPrivs:\t1"), (false, "NoNewPrivs:\t0")] {
        bundle.set("/process/noNewPrivileges", json!(wanted));
        assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), seen);
    }
}

fn rlimits(w: &World) {
    let mut bundle = w.bundle("c", "grep -E 'open files|processes|core file' /proc/self/limits");
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 1}]),
    );
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    let limits = |name: &str| {
        let line = seen.lines().find(|line| line.contains(name)).unwrap_or_default();
        line.split(name)
            .nth(1)
            .unwrap_or_default()
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(limits("Max open files"), "100 200", "{seen}");
    assert_eq!(limits("Max core file size"), "0 1", "{seen}");
}

fn profile() -> serde_json::Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}
        ]
    })
}

fn seccomp(w: &World) {
    let mut bundle = w.bundle(
        "c",
        "mkdir /tmp/x; kill -USR1 $$ || echo refused; kill -0 $$ && echo allowed; grep Seccomp: /proc/self/status",
    );
    bundle.set("/linux/seccomp", profile());
    let outcome = w.run_with("c", &bundle, b"");
    assert!(
        outcome.stderr.contains("not supported"),
        "errnoRet 95 is EOPNOTSUPP: {}",
        outcome.stderr
    );
    assert_eq!(outcome.exits(0).text(), "refused\nallowed\nSeccomp:\t2");
}

fn seccomp_of_exec(w: &World) {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set("/linux/seccomp", profile());
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let refused = w.oci(&["exec", &w.id("c"), "mkdir", "/tmp/x"]);
    assert_ne!(refused.code, 0, "an exec is filtered as the init is");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn hostname_and_pid_namespace(w: &World) {
    let mut bundle = w.bundle("c", "hostname; echo $$; ls -d /proc/[0-9]* | wc -l");
    bundle.set("/hostname", json!("box"));
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    let lines: Vec<&str> = seen.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["box", "1"]);
    let processes: u32 = lines[2].parse().expect("a count");
    assert!(processes <= 4, "only the container's own processes are seen: {seen}");
}

fn sysctl(w: &World) {
    let mut bundle = w.bundle("c", "cat /proc/sys/kernel/msgmax /proc/sys/kernel/shmmni");
    bundle.set("/linux/sysctl", json!({"kernel.msgmax": "4242", "kernel.shmmni": "99"}));
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "4242\n99");
}

fn user_namespace(w: &World) {
    let mut bundle = w.bundle("c", "cat /proc/self/uid_map; id -u; touch /tmp/f && stat -c %u /tmp/f");
    let namespaces = json!([{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "user"}, {"type": "network"}]);
    bundle.set("/linux/namespaces", namespaces);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    bundle.set("/process/capabilities", json!({}));
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
    ]);
    bundle.set("/mounts", mounts);
    bundle.set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/readonlyPaths", json!([]));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    for dir in [w.dir(), &bundle.path] {
        std::fs::set_permissions(dir, std::fs::Permissions::clone(&open)).expect("open the way to the rootfs");
    }
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    let words: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "0", "0"]);
}

fn start_container_hook(w: &World) {
    let mut bundle = w.bundle("c", "cat /from-hook");
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "cat > /state; echo hooked $X > /from-hook"], "env": ["X=1", "PATH=/bin"]});
    bundle.set("/hooks", json!({"startContainer": [hook]}));
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "hooked 1");
    let state = std::fs::read(bundle.rootfs().join("state")).expect("the hook got the state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("as JSON");
    assert_eq!(state["id"], w.id("c"));
}

fn host_hooks(w: &World) {
    let mut bundle = w.bundle("c", "true");
    let hook = |name: &str| {
        let script = format!(
            "cat > {}/{name}.json; echo {name} >> {}/order",
            w.dir().display(),
            w.dir().display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let hooks: serde_json::Map<_, _> = ["prestart", "createRuntime", "poststart", "poststop"]
        .map(|name| (name.to_owned(), hook(name)))
        .into_iter()
        .collect();
    bundle.set("/hooks", json!(hooks));
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    w.until_status("c", "stopped");
    w.oci(&["delete", &w.id("c")]).exits(0);
    let order = std::fs::read_to_string(w.dir().join("order")).expect("the hooks ran");
    assert_eq!(order, "prestart\ncreateRuntime\npoststart\npoststop\n");
    let state = std::fs::read(w.dir().join("createRuntime.json")).expect("the hook got the state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("as JSON");
    assert_eq!(
        (&state["id"], &state["bundle"]),
        (&json!(w.id("c")), &json!(bundle.path))
    );
}

/// Who lists the host's processes sees what the container's run.
fn command_line(w: &World) {
    let shown = |pid: i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.trim_end_matches('\0').replace('\0', "|")
    };
    let bundle = w.bundle("c", "sleep 1000 & wait");
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    command::until("the init is shown", || shown(pid) == "sh|-c|sleep 1000 & wait");
    let exec = |name: &str, words: &[&str]| {
        let file = w.dir().join(name);
        let path = file.display().to_string();
        let id = w.id("c");
        let exec = ["exec", "--detach", "--pid-file", &path, &id];
        w.oci(&[&exec[..], words].concat()).exits(0);
        let text = std::fs::read_to_string(&file).expect("exec wrote the pid file");
        text.parse::<i32>().expect("a pid")
    };
    let joined = exec("short", &["sleep", "1001"]);
    command::until("a process that joined is shown", || shown(joined) == "sleep|1001");
    // One that an argument of ours would look like.
    let odd = exec("odd", &["sh", "-c", "sleep 1002; echo $0 $1", "monitor", "--id=x"]);
    command::until("one with odd words is shown", || {
        shown(odd) == "sh|-c|sleep 1002; echo $0 $1|monitor|--id=x"
    });
    let script = format!("sleep 1003; : {}", "x".repeat(20_000));
    let long = exec("long", &["sh", "-c", &script]);
    command::until("a long one is shown", || {
        shown(long).starts_with("sh|-c|sleep 1003; : x")
    });
    if w.runtime == Runtime::Ours {
        assert!(shown(long).len() <= 4096 && shown(long).ends_with("x…"));
        for pid in [pid, joined, odd, long] {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            assert_eq!(name.expect("it lives"), "kata-shim\n", "ours are told by their name");
        }
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}
