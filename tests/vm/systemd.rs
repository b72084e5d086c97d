// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Control groups that systemd makes for a container: real scopes of a real systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::systemd::Systemd;
use vm_tests::world::binaries;
use vm_tests::{Runtime, Verdict, World, both, command};

pub fn cases() -> Vec<Trial> {
    vec![
        case("a_scope_lives_with_its_container", scope),
        case("a_scope_that_is_killed_ends_its_container", killed),
        case("a_scope_goes_after_a_crash", crash),
        case("podman_with_its_driver_for_systemd", podman),
    ]
}

fn case(name: &str, work: fn(&World, &Systemd<'_>)) -> Trial {
    both(&format!("systemd::{name}"), move |w| {
        let Some(systemd) = Systemd::boot(w) else {
            return Verdict::Skipped("systemd and dbus are not installed".into());
        };
        work(w, &systemd);
        Verdict::Held
    })
}

/// A container that sleeps; the name of its scope.
fn sleeper(w: &World, systemd: &Systemd<'_>) -> String {
    let id = w.id("c");
    let mut bundle = w.bundle("c", "exec sleep 1000");
    bundle.set("/linux/cgroupsPath", json!(format!("machine.slice:kata:{id}")));
    let bundle = bundle.path.to_string_lossy().into_owned();
    let started = systemd.oci(&["run", "--detach", "--bundle", &bundle, &id]);
    started.exits(0);
    format!("kata-{id}.scope")
}

fn state(w: &World, systemd: &Systemd<'_>) -> serde_json::Value {
    let state = systemd.oci(&["state", &w.id("c")]);
    serde_json::from_slice(&state.exits(0).stdout).expect("JSON")
}

fn gone(w: &World, systemd: &Systemd<'_>, unit: &str) {
    systemd.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_eq!(systemd.property(unit, "LoadState"), "not-found");
    let group = format!("/sys/fs/cgroup/machine.slice/{unit}");
    assert_ne!(systemd.run(&format!("test -e {group}")).code, 0, "{group} is left");
    systemd.run("systemctl is-system-running").exits(0);
}

fn scope(w: &World, systemd: &Systemd<'_>) {
    let unit = sleeper(w, systemd);
    for (property, want) in [
        ("ActiveState", "active"),
        ("Slice", "machine.slice"),
        ("Delegate", "yes"),
        ("Transient", "yes"),
        ("CPUAccounting", "yes"),
        ("MemoryAccounting", "yes"),
        ("TasksAccounting", "yes"),
        ("ControlGroup", &format!("/machine.slice/{unit}")),
    ] {
        assert_eq!(systemd.property(&unit, property), want, "{property}");
    }
    let procs = format!("/sys/fs/cgroup/machine.slice/{unit}/cgroup.procs");
    let members = systemd.run(&format!("cat {procs}")).exits(0).text();
    let pid = state(w, systemd)["pid"].to_string();
    assert!(members.lines().any(|member| member == pid), "{pid} is not in {members}");
    if w.runtime == Runtime::Ours {
        let names = systemd.run(&format!("for p in $(cat {procs}); do cat /proc/$p/comm; done"));
        assert!(
            names.text().contains("qemu"),
            "the machine is not in it: {}",
            names.text()
        );
    }
    gone(w, systemd, &unit);
}

fn killed(w: &World, systemd: &Systemd<'_>) {
    let unit = sleeper(w, systemd);
    systemd.run(&format!("systemctl kill --signal KILL {unit}")).exits(0);
    command::until("the container has stopped", || state(w, systemd)["status"] == "stopped");
    gone(w, systemd, &unit);
}

fn crash(w: &World, systemd: &Systemd<'_>) {
    let unit = sleeper(w, systemd);
    let procs = format!("/sys/fs/cgroup/machine.slice/{unit}/cgroup.procs");
    // The first one in it: ours is the monitor, which owns the scope.
    systemd.run(&format!("kill -9 $(head -n1 {procs})")).exits(0);
    command::until("systemd has noticed", || {
        systemd.property(&unit, "LoadState") == "not-found"
    });
    gone(w, systemd, &unit);
}

/// What Podman does by itself on such a host: its monitor and the container each get a scope.
fn podman(w: &World, systemd: &Systemd<'_>) {
    if systemd.run("podman --version").code != 0 {
        eprintln!("skipped: podman is not installed");
        return;
    }
    let bundle = w.bundle("c", "true");
    let runtime = w.dir().join("kata-runtime");
    // Podman hands no environment down.
    let program = match w.runtime {
        Runtime::Reference => "exec runc".to_owned(),
        Runtime::Ours => {
            let store = std::env::var("KATA_GUEST_DIR").map(|dir| format!("KATA_GUEST_DIR={dir} "));
            let kata = fs::canonicalize(binaries().join("kata")).expect("kata is built");
            format!("{}exec {} runtime", store.unwrap_or_default(), kata.display())
        }
    };
    fs::write(&runtime, format!("#!/bin/sh\n{program} \"$@\"\n")).expect("write");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).expect("chmod");
    let dir = w.dir().display();
    let podman = |words: &str| {
        let options = format!("--root {dir}/s --runroot {dir}/r --tmpdir {dir}/t --cgroup-manager systemd");
        let line = format!(
            "podman {options} --events-backend file --runtime {} {words}",
            runtime.display()
        );
        systemd.run(&line).exits(0).text()
    };
    let rootfs = bundle.rootfs();
    // The hierarchy of a test has no controllers.
    let limits = "--pids-limit 0 --ulimit nofile=1024:1024 --ulimit nproc=4096:4096";
    let id = podman(&format!(
        "run --detach --network none {limits} --name c --rootfs {} sleep 1000",
        rootfs.display()
    ));
    let unit = format!("libpod-{id}.scope");
    assert_eq!(systemd.property(&unit, "Slice"), "machine.slice");
    let pid = podman("inspect --format {{.State.Pid}} c");
    let group = systemd.run(&format!("grep ^0:: /proc/{pid}/cgroup")).exits(0).text();
    assert!(group.contains(&unit), "{group}");
    assert_eq!(podman("exec c echo lives"), "lives");
    podman("rm --force --time 0 c");
    command::until("the scope has gone", || {
        systemd.property(&unit, "LoadState") == "not-found"
    });
}
