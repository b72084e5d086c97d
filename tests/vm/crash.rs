// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! kill -9 of each process of a sandbox, at several points of its life: the container is reported dead with the reason, `delete
//! --force` succeeds, nothing is left.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm_tests::{Bundle, World, command, ours, process};

pub fn cases() -> Vec<Trial> {
    let mut cases = Vec::new();
    for role in ["qemu", "device", "monitor", "shim"] {
        cases.push(ours(&format!("crash::{role}_while_running"), move |w| {
            while_running(w, role);
        }));
        cases.push(ours(&format!("crash::{role}_while_created"), move |w| {
            while_created(w, role);
        }));
    }
    for role in ["qemu", "device", "monitor", "runtime"] {
        cases.push(ours(&format!("crash::{role}_while_creating"), move |w| {
            while_creating(w, role);
        }));
    }
    cases.push(ours("crash::foreground_run_reports_137", foreground));
    cases.push(ours("crash::everything_at_once", everything));
    cases
}

/// Pids of the processes of this world's sandbox that play `role`.
pub fn players(w: &World, role: &str) -> Vec<i32> {
    let marker = w.dir().file_name().expect("has a name").to_string_lossy().into_owned();
    let plays = |pid: &i32| {
        let line = process::line(*pid);
        if role == "qemu" {
            line.contains("qemu-system")
        } else {
            line.contains(&format!("kata {role} "))
        }
    };
    let pids = process::all().into_iter();
    pids.filter(|pid| process::carries(*pid, &marker) && plays(pid))
        .collect()
}

fn strike(w: &World, role: &str) {
    let mut victims = Vec::new();
    command::until(&format!("there is a {role} process"), || {
        victims = players(w, role);
        !victims.is_empty()
    });
    for pid in victims {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The state on disk says why.
fn reason(w: &World) -> String {
    let text = fs::read_to_string(w.sandbox("c").join("state.json")).unwrap_or_default();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    state.to_string()
}

fn buried(w: &World, role: &str) {
    w.until_status("c", "stopped");
    assert_eq!(w.state("c")["pid"], 0);
    if role != "monitor" {
        command::until("the exit status and the reason are saved", || {
            let state = reason(w);
            state.contains("137") && state.contains("reason")
        });
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_ne!(w.oci(&["state", &w.id("c")]).code, 0);
}

fn busy(w: &World) -> Bundle {
    w.bundle("c", "while :; do echo tick; echo x >> /tmp/f; sleep 0.05; done")
}

fn while_running(w: &World, role: &str) {
    w.create("c", &busy(w));
    w.oci(&["start", &w.id("c")]).exits(0);
    strike(w, role);
    buried(w, role);
}

fn while_created(w: &World, role: &str) {
    w.create("c", &busy(w));
    strike(w, role);
    buried(w, role);
}

fn while_creating(w: &World, role: &str) {
    let bundle = busy(w);
    for delay in [0, 60, 400, 1500] {
        let mut command = w.runtime();
        command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let mut victims = players(w, role);
        while victims.is_empty() && child.try_wait().expect("wait").is_none() {
            thread::sleep(Duration::from_millis(2));
            victims = players(w, role);
        }
        thread::sleep(Duration::from_millis(delay));
        for pid in victims {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let code = command::end(&mut child);
        if role != "runtime" {
            let state = w.oci(&["state", &w.id("c")]);
            assert!(
                code != 0 || state.code == 0,
                "create said that it succeeded, but there is no container"
            );
        }
        w.oci(&["delete", "--force", &w.id("c")]).exits(0);
        vm_tests::leak::check(w);
    }
}

fn foreground(w: &World) {
    for role in ["qemu", "device", "monitor"] {
        let mut command = w.runtime();
        command.args(["run", "--bundle"]).arg(&busy(w).path).arg(w.id("c"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut out = child.stdout.take().expect("piped");
        let mut tick = [0; 5];
        std::io::Read::read_exact(&mut out, &mut tick).expect("it runs");
        let drain = thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        strike(w, role);
        assert_eq!(command::end(&mut child), 137, "{role}");
        let _ = drain.join();
        let mut why = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut why).expect("read");
        assert!(!why.trim().is_empty(), "{role}: the reason is told");
        w.oci(&["delete", "--force", &w.id("c")]).exits(0);
        vm_tests::leak::check(w);
    }
}

fn everything(w: &World) {
    w.create("c", &busy(w));
    w.oci(&["start", &w.id("c")]).exits(0);
    for role in ["monitor", "qemu", "device", "shim"] {
        for pid in players(w, role) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    buried(w, "monitor");
}
