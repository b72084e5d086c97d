// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! create, start, state, kill, delete, list: the life of a container as an engine drives it.

use std::fs;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{Runtime, World, both, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        both("lifecycle::run_returns_the_code", |w| {
            w.sh("exit 42").exits(42);
        }),
        both("lifecycle::state_at_each_step", state_at_each_step),
        both("lifecycle::kill_by_name_and_number", kill_by_name_and_number),
        both(
            "lifecycle::a_signal_to_the_pid_reaches_the_container",
            signal_to_the_pid,
        ),
        both("lifecycle::delete_refuses_what_runs", delete_refuses_what_runs),
        both("lifecycle::delete_force_of_what_never_was", |w| {
            w.oci(&["delete", "--force", &w.id("never")]).exits(0);
        }),
        both("lifecycle::verbs_on_what_is_not_there", verbs_on_what_is_not_there),
        both("lifecycle::an_id_is_taken_once", an_id_is_taken_once),
        both("lifecycle::start_twice_is_refused", start_twice),
        both("lifecycle::list_and_ps", list_and_ps),
        both("lifecycle::exec_code_env_cwd_user", exec),
        both("lifecycle::exec_of_what_is_missing", exec_missing),
        both("lifecycle::run_of_what_is_missing", run_missing),
        both("lifecycle::pause_and_resume", pause_and_resume),
        both("lifecycle::run_detached", run_detached),
        ours("lifecycle::the_kernel_is_the_guests_own", |w| {
            let guest = w.sh("uname -r").exits(0).text();
            let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the host's release");
            assert_ne!(guest, host.trim());
        }),
        ours("lifecycle::deep_root_directories", |w| {
            let deep = w.root().join("d".repeat(100)).join("e".repeat(60));
            let bundle = w.bundle("deep", "echo deep");
            let mut command = w.runtime();
            command
                .arg("--root")
                .arg(&deep)
                .args(["run", "--bundle"])
                .arg(&bundle.path)
                .arg(w.id("deep"));
            assert_eq!(vm_tests::command::run(&mut command, b"").exits(0).text(), "deep");
            fs::remove_dir_all(w.root()).expect("remove the deep root");
        }),
    ]
}

fn state_at_each_step(w: &World) {
    let bundle = w.bundle("c", "echo started; sleep 1000");
    let pid = w.create("c", &bundle);
    let state = w.state("c");
    assert_eq!(
        state["ociVersion"].as_str().map(|version| version.starts_with("1.")),
        Some(true),
        "{state}"
    );
    assert_eq!(state["id"], w.id("c"));
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["bundle"], bundle.path.to_str().expect("UTF-8"));
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().expect("UTF-8"));
    assert_eq!(state["owner"], "");
    assert!(
        state["created"]
            .as_str()
            .is_some_and(|time| time.len() >= 20 && time.ends_with('Z')),
        "{state}"
    );
    assert!(fs::exists(format!("/proc/{pid}")).expect("look into proc"));
    w.oci(&["start", &w.id("c")]).exits(0);
    let state = w.state("c");
    assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(pid)));
    w.oci(&["kill", &w.id("c"), "KILL"]).exits(0);
    w.until_status("c", "stopped");
    assert_eq!(w.state("c")["pid"], 0);
    w.oci(&["delete", &w.id("c")]).exits(0);
    assert_ne!(w.oci(&["state", &w.id("c")]).code, 0);
}

fn kill_by_name_and_number(w: &World) {
    let script = "trap 'echo term > /got; exit 3' TERM; trap 'echo usr1 >> /usr1' USR1; touch /ready; while :; do sleep 0.1; done";
    let bundle = w.bundle("c", script);
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    vm_tests::command::until("the traps are set", || bundle.rootfs().join("ready").exists());
    for name in ["SIGUSR1", "usr1", "10"] {
        w.oci(&["kill", &w.id("c"), name]).exits(0);
        let path = bundle.rootfs().join("usr1");
        vm_tests::command::until(name, || path.exists());
        fs::remove_file(path).expect("it was there");
    }
    w.oci(&["kill", &w.id("c"), "NOSUCH"]).refuses(&["NOSUCH"]);
    w.oci(&["kill", &w.id("c")]).exits(0);
    w.until_status("c", "stopped");
    assert_eq!(
        fs::read_to_string(bundle.rootfs().join("got")).expect("the trap ran"),
        "term\n"
    );
    assert_ne!(
        w.oci(&["kill", &w.id("c"), "KILL"]).code,
        0,
        "a stopped container takes no signal"
    );
    w.oci(&["delete", &w.id("c")]).exits(0);
}

fn signal_to_the_pid(w: &World) {
    let bundle = w.bundle(
        "c",
        "trap 'echo term > /got; exit 0' TERM; touch /ready; while :; do sleep 0.1; done",
    );
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    vm_tests::command::until("the trap is set", || bundle.rootfs().join("ready").exists());
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal the pid of the pid file");
    w.until_status("c", "stopped");
    assert!(bundle.rootfs().join("got").exists());
    w.oci(&["delete", &w.id("c")]).exits(0);
}

fn delete_refuses_what_runs(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let refused = w.oci(&["delete", &w.id("c")]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("is not stopped: running"), "{}", refused.stderr);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_ne!(w.oci(&["state", &w.id("c")]).code, 0);
}

fn verbs_on_what_is_not_there(w: &World) {
    let id = w.id("none");
    for args in [
        vec!["state", &id],
        vec!["start", &id],
        vec!["kill", &id],
        vec!["delete", &id],
        vec!["exec", &id, "true"],
    ] {
        let outcome = w.oci(&args);
        assert_ne!(outcome.code, 0, "{args:?}");
        assert!(
            outcome.stderr.contains("container does not exist"),
            "{args:?}: {}",
            outcome.stderr
        );
    }
}

fn an_id_is_taken_once(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    let path = bundle.path.to_str().expect("UTF-8");
    let again = w.oci(&["create", "--bundle", path, &w.id("c")]);
    assert_ne!(again.code, 0);
    assert!(again.stderr.contains("already exists"), "{}", again.stderr);
    assert_eq!(w.state("c")["status"], "created", "the first one is untouched");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn start_twice(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    assert_ne!(w.oci(&["start", &w.id("c")]).code, 0);
    assert_eq!(w.state("c")["status"], "running");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn list_and_ps(w: &World) {
    let bundle = w.bundle("c", "sleep 1000 & sleep 1000 & wait");
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let table = w.oci(&["list"]).exits(0).text();
    let header: Vec<&str> = table.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..3], [w.id("c").as_str(), &pid.to_string(), "running"]);
    assert_eq!(w.oci(&["list", "-q"]).exits(0).text(), w.id("c"));
    let list: serde_json::Value = serde_json::from_slice(&w.oci(&["list", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(
        (&list[0]["id"], &list[0]["status"]),
        (&json!(w.id("c")), &json!("running"))
    );
    vm_tests::command::until("three processes", || {
        let table = w.oci(&["ps", &w.id("c")]).exits(0).text();
        table.lines().filter(|line| line.contains("sleep 1000")).count() == 3
    });
    // Engines look these up on the host: there must be no strangers among them.
    let pids = w.oci(&["ps", "--format", "json", &w.id("c")]);
    let pids: Vec<i32> = serde_json::from_slice(&pids.exits(0).stdout).expect("JSON");
    assert!(pids.contains(&pid), "{pids:?}");
    let count = if w.runtime == Runtime::Ours { 1 } else { 3 };
    assert_eq!(pids.len(), count, "{pids:?}");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn exec(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let id = w.id("c");
    w.oci(&["exec", &id, "sh", "-c", "exit 7"]).exits(7);
    assert_eq!(
        w.oci(&["exec", "--env", "A=b c", &id, "sh", "-c", "echo $A"])
            .exits(0)
            .text(),
        "b c"
    );
    assert_eq!(w.oci(&["exec", "--cwd", "/tmp", &id, "pwd"]).exits(0).text(), "/tmp");
    assert_eq!(
        w.oci(&["exec", "--user", "1000:1000", &id, "id", "-u"]).exits(0).text(),
        "1000"
    );
    let mut command = w.runtime();
    command.args(["exec", &id, "cat"]);
    assert_eq!(
        vm_tests::command::run(&mut command, b"through\n").exits(0).text(),
        "through"
    );
    let seen = w
        .oci(&["exec", &id, "sh", "-c", "ls /proc/1/exe && ps | grep -c 'sleep 100[0]'"])
        .exits(0)
        .text();
    assert!(
        seen.ends_with("\n1"),
        "an exec shares the container's pid namespace: {seen}"
    );
    w.oci(&["delete", "--force", &id]).exits(0);
}

fn exec_missing(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let missing = w.oci(&["exec", &w.id("c"), "no-such-program"]);
    assert_eq!(missing.code, 255, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("executable file not found in $PATH"),
        "{}",
        missing.stderr
    );
    let denied = w.oci(&["exec", &w.id("c"), "/etc/passwd"]);
    assert_eq!(denied.code, 255, "{}", denied.stderr);
    assert!(denied.stderr.contains("permission denied"), "{}", denied.stderr);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn run_missing(w: &World) {
    let mut bundle = w.bundle("c", "");
    for (arg, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such", "no such file or directory"),
    ] {
        bundle.set("/process/args", json!([arg]));
        let outcome = w.run_with("c", &bundle, b"");
        assert_ne!(outcome.code, 0);
        assert!(outcome.stderr.contains(words), "{arg}: {}", outcome.stderr);
    }
}

fn pause_and_resume(w: &World) {
    let bundle = w.bundle(
        "c",
        "while :; do date +%s%N > /tick 2>/dev/null || echo x >> /tick; sleep 0.05; done",
    );
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let tick = bundle.rootfs().join("tick");
    vm_tests::command::until("it ticks", || tick.exists());
    w.oci(&["pause", &w.id("c")]).exits(0);
    assert_eq!(w.state("c")["status"], "paused");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let modified = || fs::metadata(&tick).and_then(|m| m.modified()).expect("it exists");
    let before = modified();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(modified(), before, "nothing runs while paused");
    w.oci(&["resume", &w.id("c")]).exits(0);
    assert_eq!(w.state("c")["status"], "running");
    vm_tests::command::until("it goes on", || modified() != before);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn run_detached(w: &World) {
    let bundle = w.bundle("c", "echo here > /out; sleep 1000");
    let path = bundle.path.to_str().expect("UTF-8");
    w.oci(&["run", "--detach", "--bundle", path, &w.id("c")]).exits(0);
    assert_eq!(w.state("c")["status"], "running");
    vm_tests::command::until("it writes", || bundle.rootfs().join("out").exists());
    assert_eq!(w.oci(&["exec", &w.id("c"), "cat", "/out"]).exits(0).text(), "here");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}
