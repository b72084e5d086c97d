// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Several containers in one sandbox: what they share, and that each lives and ends on its own.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use vm_tests::{Bundle, Verdict, Wire, World, both, command, ours};

use crate::crash::players;

pub fn cases() -> Vec<Trial> {
    vec![
        both("pods::namespaces_of_another_container", namespaces),
        both("pods::a_pid_namespace_for_all", pids),
        both("pods::a_namespace_that_was_prepared", prepared),
        both("pods::memory_by_name", memory),
        both("pods::containers_go_in_any_order", any_order),
        both("pods::made_again_and_again", again),
        both("pods::two_at_once", at_once),
        both("pods::the_first_is_made_anew", made_anew),
        both("pods::an_ended_one_does_not_hold_the_network", ended),
        both("pods::joining_what_ends", racing),
        both("pods::a_group_each", groups),
        both("pods::figures_of_each", figures),
        ours("pods::a_killed_creator_takes_its_container_alone", creator),
        ours("pods::a_killed_monitor_takes_all", monitor),
        ours("pods::annotations_of_engines", annotations),
        ours("pods::size_of_a_pod", size),
        ours("pods::what_cannot_be_shared_is_refused", refused),
    ]
}

/// A bundle in the network namespace of `wire`, with the namespaces of process `pid` named in `shared`.
fn bundle(w: &World, name: &str, wire: &Wire, shared: &[(&str, i32)], script: &str) -> Bundle {
    let mut bundle = w.bundle(name, script);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    let mut put = |kind: &str, path: &Path| {
        namespaces.retain(|namespace| namespace["type"] != kind);
        namespaces.push(json!({"type": kind, "path": path}));
    };
    put("network", &wire.path());
    for (kind, pid) in shared {
        put(kind, Path::new(&format!("/proc/{pid}/ns/{kind}")));
    }
    bundle.write();
    bundle
}

fn start(w: &World, name: &str) {
    w.oci(&["start", &w.id(name)]).exits(0);
}

fn remove(w: &World, name: &str) {
    w.oci(&["delete", "--force", &w.id(name)]).exits(0);
}

/// Nothing is left of the sandbox, while the network is still there.
fn swept(w: &World) {
    let directories = || fs::read_dir(w.root()).map_or(0, Iterator::count);
    command::until("the sandbox's directories have gone", || directories() == 0);
    let roles = ["monitor", "device", "qemu", "shim"];
    command::until("its processes have gone", || {
        roles.iter().all(|role| players(w, role).is_empty())
    });
}

/// What `script` prints in a container that runs.
#[track_caller]
fn inside(w: &World, name: &str, script: &str) -> String {
    w.oci(&["exec", &w.id(name), "sh", "-c", script]).exits(0).text()
}

/// A server in the background of `script`: it answers with `name`.
fn server(port: u16, name: &str) -> String {
    format!("mkdir -p /www; echo {name} > /www/name; exec busybox httpd -f -p {port} -h /www")
}

#[track_caller]
fn serves(w: &World, from: &str, port: u16, name: &str) {
    let fetch = format!("timeout 5 busybox wget -qO- http://127.0.0.1:{port}/name || true");
    command::until(&format!("{name} serves"), || inside(w, from, &fetch) == name);
}

fn namespaces(w: &World) {
    let wire = Wire::plugged(w, "n");
    let mut first = bundle(w, "a", &wire, &[], "sleep 1000");
    first.set("/hostname", json!("both"));
    first.set(
        "/linux/sysctl",
        json!({"kernel.msgmax": "4242", "net.ipv4.ip_forward": "1"}),
    );
    let pid = w.create("a", &first);
    start(w, "a");
    let script = "cat /proc/sys/kernel/hostname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward; \
                  for n in ipc uts pid mnt; do readlink /proc/self/ns/$n; done; sleep 1000";
    let mut second = bundle(w, "b", &wire, &[("ipc", pid), ("uts", pid)], script);
    second.spec.as_object_mut().expect("a spec").remove("hostname");
    second.write();
    w.create("b", &second);
    start(w, "b");
    let look = "for n in ipc uts pid mnt; do readlink /proc/self/ns/$n; done; \
                cat /proc/sys/kernel/hostname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward";
    let (a, b) = (inside(w, "a", look), inside(w, "b", look));
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    assert_eq!(a[..2], b[..2], "ipc and uts are one");
    assert_ne!(a[2], b[2], "each its own processes");
    assert_ne!(a[3], b[3], "each its own mounts");
    assert_eq!(a[4..], ["both", "4242", "1"]);
    assert_eq!(a[4..], b[4..]);
    for name in ["a", "b"] {
        remove(w, name);
    }
    wire.check();
}

/// What one does is not counted for another.
fn figures(w: &World) {
    let wire = Wire::plugged(w, "n");
    w.create("a", &bundle(w, "a", &wire, &[], "sleep 1000"));
    start(w, "a");
    let busy = "head -c 20000000 /dev/zero >/tmp/held; sleep 1000 & while :; do :; done";
    let mut second = bundle(w, "b", &wire, &[], busy);
    second.mount("/tmp", "tmpfs", "tmpfs", &["size=64m"]);
    w.create("b", &second);
    start(w, "b");
    // Processor time in ns, bytes of memory, processes.
    let of = |name: &str| {
        let told = w.oci(&["events", "--stats", &w.id(name)]).exits(0).text();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        [
            "/data/cpu/usage/total",
            "/data/memory/usage/usage",
            "/data/pids/current",
        ]
        .map(|place| told.pointer(place).and_then(Value::as_u64).expect(place))
    };
    command::until("the busy one has been seen to be busy", || {
        let (a, b) = (of("a"), of("b"));
        b[0] > 300_000_000 + 3 * a[0] && b[1] > 20_000_000 && b[2] == 2
    });
    let idle = of("a");
    assert!(idle[1] < 20_000_000 && idle[2] == 1, "{idle:?}");
    for name in ["a", "b"] {
        remove(w, name);
    }
    wire.check();
}

fn pids(w: &World) {
    let wire = Wire::plugged(w, "n");
    let pid = w.create(
        "a",
        &bundle(w, "a", &wire, &[], "trap 'exit 3' TERM; while :; do sleep 0.1; done"),
    );
    start(w, "a");
    w.create("b", &bundle(w, "b", &wire, &[("pid", pid)], "exec sleep 4242"));
    start(w, "b");
    let seen = inside(w, "a", "ps");
    assert!(seen.contains("sleep 4242"), "{seen}");
    let seen = inside(
        w,
        "b",
        "cat /proc/1/cmdline | tr '\\0' ' '; ls /proc | grep -c '^[0-9]'",
    );
    assert!(seen.starts_with("sh -c trap"), "{seen}");
    // Its first process is not that of the namespace: the other one lives on.
    w.oci(&["kill", &w.id("b"), "KILL"]).exits(0);
    w.until_status("b", "stopped");
    assert_eq!(w.state("a")["status"], "running");
    remove(w, "b");
    w.create("b", &bundle(w, "b", &wire, &[("pid", pid)], "exec sleep 4242"));
    start(w, "b");
    // With the first of the namespace all end.
    w.oci(&["kill", &w.id("a"), "TERM"]).exits(0);
    w.until_status("a", "stopped");
    w.until_status("b", "stopped");
    for name in ["a", "b"] {
        remove(w, name);
    }
    wire.check();
}

/// An engine may make a pod's namespaces before its first container, and hold them by files.
fn prepared(w: &World) {
    let wire = Wire::plugged(w, "n");
    let held = w.dir().join("ipcns");
    fs::write(&held, "").expect("a file to mount on");
    let mut hold = std::process::Command::new("unshare");
    hold.arg(format!("--ipc={}", held.display())).arg("true");
    command::run(&mut hold, b"").exits(0);
    let look = "readlink /proc/self/ns/ipc";
    let mut seen = Vec::new();
    for name in ["a", "b"] {
        let mut bundle = bundle(w, name, &wire, &[], "sleep 1000");
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "ipc");
        namespaces.push(json!({"type": "ipc", "path": held}));
        bundle.write();
        w.create(name, &bundle);
        start(w, name);
        seen.push(inside(w, name, look));
    }
    w.create("c", &bundle(w, "c", &wire, &[], "sleep 1000"));
    start(w, "c");
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], inside(w, "c", look));
    for name in ["a", "b", "c"] {
        remove(w, name);
    }
    let mut umount = std::process::Command::new("umount");
    command::run(umount.arg(&held), b"").exits(0);
    wire.check();
}

/// Maps memory by its name, and writes a word to it or waits for one.
const MAPPER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **words) {
    int file = shm_open("/box", O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, 4096)) return 2;
    char *box = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (box == MAP_FAILED) return 3;
    if (count == 1) { strcpy(box, "through"); return 0; }
    for (int turn = 0; turn < 300 && strcmp(box, words[1]); turn++) usleep(100000);
    return strcmp(box, words[1]) != 0;
}
"#;

/// What an engine binds on /dev/shm of several containers is one memory, also for those who map it.
fn memory(w: &World) -> Verdict {
    let (source, program) = (w.dir().join("mapper.c"), w.dir().join("mapper"));
    fs::write(&source, MAPPER).expect("write");
    let mut compile = std::process::Command::new("cc");
    compile.arg("-static").arg("-o").arg(&program).arg(&source);
    if !compile.status().is_ok_and(|status| status.success()) {
        return Verdict::Skipped("there is no C compiler with a static library".into());
    }
    let wire = Wire::plugged(w, "n");
    let shm = w.dir().join("shm");
    fs::create_dir(&shm).expect("create");
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=3m,mode=1777", "shm"]).arg(&shm);
    command::run(&mut mount, b"").exits(0);
    for name in ["a", "b"] {
        let mut bundle = bundle(w, name, &wire, &[], "/mapper through; echo $? > /done; sleep 1000");
        fs::copy(&program, bundle.rootfs().join("mapper")).expect("copy");
        let mounts = bundle.spec["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/dev/shm");
        bundle.mount("/dev/shm", "bind", &shm.to_string_lossy(), &["bind", "nosuid", "nodev"]);
        w.create(name, &bundle);
    }
    start(w, "a");
    command::until("it has mapped the memory", || inside(w, "a", "ls /dev/shm") == "box");
    start(w, "b");
    inside(w, "b", "/mapper");
    for name in ["a", "b"] {
        command::until("it sees the word", || inside(w, name, "cat /done || true") == "0");
        let size = inside(w, name, "df -k /dev/shm | awk 'END {print $2}'");
        assert_eq!(size, "3072", "of {name}");
    }
    // It lives as long as somebody has it.
    remove(w, "a");
    assert_eq!(inside(w, "b", "ls /dev/shm"), "box");
    remove(w, "b");
    command::run(std::process::Command::new("umount").arg(&shm), b"").exits(0);
    wire.check();
    Verdict::Held
}

fn any_order(w: &World) {
    for (turn, order) in [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]].iter().enumerate() {
        let wire = Wire::plugged(w, &format!("n{turn}"));
        for (port, name) in (81..).zip(["a", "b", "c"]) {
            w.create(name, &bundle(w, name, &wire, &[], &server(port, name)));
            start(w, name);
        }
        for (port, name) in (81..).zip(["a", "b", "c"]) {
            serves(w, order[2], port, name);
        }
        let listed = w.oci(&["list", "--quiet"]).exits(0).text();
        assert_eq!(listed.lines().count(), 3, "{listed}");
        remove(w, order[0]);
        assert_eq!(w.state(order[1])["status"], "running");
        w.oci(&["kill", &w.id(order[1]), "KILL"]).exits(0);
        w.until_status(order[1], "stopped");
        w.oci(&["delete", &w.id(order[1])]).exits(0);
        let left = (81..).zip(["a", "b", "c"]).find(|(_, name)| *name == order[2]);
        let (port, name) = left.expect("one of the three");
        serves(w, name, port, name);
        remove(w, name);
        wire.check();
        swept(w);
    }
}

/// Resident memory of a process, KiB.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("VmRSS in kB")
}

fn again(w: &World) {
    const TIMES: usize = 50;
    let wire = Wire::plugged(w, "n");
    w.create("a", &bundle(w, "a", &wire, &[], "sleep 1000"));
    start(w, "a");
    let b = bundle(w, "b", &wire, &[], "echo hello; exit 7");
    let mut sizes = Vec::new();
    for _ in 0..TIMES {
        let outcome = w.run_with("b", &b, b"");
        assert_eq!(
            (outcome.code, outcome.text().as_str()),
            (7, "hello"),
            "{}",
            outcome.stderr
        );
        sizes.extend(players(w, "monitor").into_iter().map(resident));
    }
    if let (Some(early), Some(late)) = (sizes.get(TIMES / 5), sizes.last()) {
        assert!(*late <= early + 512, "the monitor grew from {early} to {late} KiB");
    }
    remove(w, "a");
    wire.check();
}

fn spawn(w: &World, name: &str, bundle: &Bundle) -> Child {
    let mut command = w.runtime();
    command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id(name));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn")
}

fn at_once(w: &World) {
    let wire = Wire::plugged(w, "n");
    let names = ["a", "b", "c"];
    // Which of them begins the sandbox is open.
    let bundles = names.map(|name| bundle(w, name, &wire, &[], "sleep 1000"));
    let mut makers: Vec<Child> = names.iter().zip(&bundles).map(|(name, b)| spawn(w, name, b)).collect();
    for (maker, name) in makers.iter_mut().zip(names) {
        assert_eq!(command::end(maker), 0, "{name}");
        start(w, name);
    }
    let all: Vec<String> = names
        .iter()
        .map(|name| inside(w, name, "ip -o -4 addr show dev eth0"))
        .collect();
    assert!(all[0].contains("10.77.0.2"), "{all:?}");
    assert_eq!((&all[0], &all[0]), (&all[1], &all[2]));
    for name in names {
        remove(w, name);
    }
    wire.check();
}

/// The one that began the sandbox goes and comes again, in the same namespace and in another.
fn made_anew(w: &World) {
    let (wire, other) = (Wire::plugged(w, "n"), Wire::plugged(w, "m"));
    w.create("a", &bundle(w, "a", &wire, &[], "sleep 1000"));
    w.create("b", &bundle(w, "b", &wire, &[], &server(82, "b")));
    start(w, "b");
    for place in [&wire, &other] {
        remove(w, "a");
        w.create("a", &bundle(w, "a", place, &[], "sleep 1000"));
        start(w, "a");
        assert!(inside(w, "a", "ip -o -4 addr show dev eth0").contains("10.77.0.2"));
        serves(w, "b", 82, "b");
    }
    // It has a network of its own now.
    assert_eq!(
        inside(
            w,
            "a",
            "timeout 5 busybox wget -qO- http://127.0.0.1:82/name || echo none"
        ),
        "none"
    );
    remove(w, "b");
    assert_eq!(w.state("a")["status"], "running");
    remove(w, "a");
    wire.check();
    other.check();
}

fn ended(w: &World) {
    let wire = Wire::plugged(w, "n");
    w.create("a", &bundle(w, "a", &wire, &[], "exit 5"));
    start(w, "a");
    w.until_status("a", "stopped");
    let show = "ip -o -4 addr show dev eth0";
    let b = w.run_with("b", &bundle(w, "b", &wire, &[], show), b"");
    assert!(b.exits(0).text().contains("10.77.0.2"));
    assert_eq!(w.state("a")["status"], "stopped");
    remove(w, "a");
    let c = w.run_with("c", &bundle(w, "c", &wire, &[], show), b"");
    assert!(c.exits(0).text().contains("10.77.0.2"));
    wire.check();
}

fn racing(w: &World) {
    let wire = Wire::plugged(w, "n");
    for delay in [0, 20, 60, 150, 400] {
        let a = bundle(w, "a", &wire, &[], "exit 0");
        w.create("a", &a);
        let b = bundle(w, "b", &wire, &[], "echo lives");
        start(w, "a");
        thread::sleep(Duration::from_millis(delay));
        let outcome = w.run_with("b", &b, b"");
        // It has joined in time, or got a machine of its own.
        assert_eq!(
            (outcome.code, outcome.text().as_str()),
            (0, "lives"),
            "{}",
            outcome.stderr
        );
        w.until_status("a", "stopped");
        remove(w, "a");
        swept(w);
    }
    wire.check();
}

/// The control group of a process, where memory is counted.
fn group(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let line = text
        .lines()
        .find(|line| line.contains(":memory:") || line.starts_with("0::/"));
    let group = line.and_then(|line| line.rsplit(':').next());
    group.expect("a group").to_owned()
}

fn groups(w: &World) {
    let wire = Wire::plugged(w, "n");
    let parent = w.id("pod");
    let mut pids = Vec::new();
    for name in ["a", "b"] {
        let mut bundle = bundle(w, name, &wire, &[], "sleep 1000");
        bundle.set("/linux/cgroupsPath", json!(format!("/{parent}/{name}")));
        pids.push(w.create(name, &bundle));
        start(w, name);
    }
    assert_eq!(group(pids[0]), format!("/{parent}/a"));
    assert_eq!(group(pids[1]), format!("/{parent}/b"));
    let machine = players(w, "qemu");
    for pid in &machine {
        assert_eq!(group(*pid), format!("/{parent}/a"), "the machine is in the first one's");
    }
    // The first goes, and its group with it.
    remove(w, "a");
    assert_eq!(group(pids[1]), format!("/{parent}/b"));
    for pid in &machine {
        assert_eq!(group(*pid), format!("/{parent}/b"), "the machine has moved");
    }
    remove(w, "b");
    // What stands above them is the engine's.
    let tops = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten();
    for top in tops.map(|top| top.path()).chain(["/sys/fs/cgroup".into()]) {
        let dir = top.join(&parent);
        if dir.is_dir() {
            fs::remove_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        }
    }
    wire.check();
}

fn creator(w: &World) {
    let wire = Wire::plugged(w, "n");
    w.create("a", &bundle(w, "a", &wire, &[], &server(81, "a")));
    start(w, "a");
    let b = bundle(w, "b", &wire, &[], "sleep 1000");
    for delay in [0, 5, 10, 20, 40, 80, 160] {
        let mut maker = spawn(w, "b", &b);
        thread::sleep(Duration::from_millis(delay));
        maker.kill().expect("kill it");
        maker.wait().expect("it ends");
        // Released before the kill, it lives; else nothing of it stays.
        let listed = || w.oci(&["list", "--quiet"]).exits(0).text();
        if listed().contains(&w.id("b")) {
            w.oci(&["delete", "--force", &w.id("b")]).exits(0);
        }
        command::until("the container's directory has gone", || {
            !w.root().join(w.id("b")).exists()
        });
        serves(w, "a", 81, "a");
        w.create("b", &b);
        start(w, "b");
        remove(w, "b");
    }
    let left = inside(w, "a", "cat /proc/mounts");
    assert!(!left.contains(&w.id("b")), "{left}");
    remove(w, "a");
    wire.check();
}

fn monitor(w: &World) {
    let wire = Wire::plugged(w, "n");
    for order in [["a", "b"], ["b", "a"]] {
        for name in ["a", "b"] {
            w.create(name, &bundle(w, name, &wire, &[], "sleep 1000"));
            start(w, name);
        }
        for pid in players(w, "monitor") {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
        }
        for name in order {
            w.until_status(name, "stopped");
            remove(w, name);
        }
        swept(w);
    }
}

fn annotate(bundle: &mut Bundle, pairs: &[(&str, &str)]) {
    for (key, value) in pairs {
        bundle.spec["annotations"][key] = json!(value);
    }
    bundle.write();
}

fn saved(w: &World, name: &str) -> Value {
    let text = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
    serde_json::from_slice(&text).expect("JSON")
}

fn annotations(w: &World) {
    for (turn, keys) in [
        ["io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"],
        ["io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"],
    ]
    .iter()
    .enumerate()
    {
        let wire = Wire::plugged(w, &format!("n{turn}"));
        let sandbox = w.id("a");
        let mut a = bundle(w, "a", &wire, &[], "sleep 1000");
        annotate(&mut a, &[(keys[0], "sandbox"), (keys[1], &sandbox)]);
        w.create("a", &a);
        start(w, "a");
        let mut b = bundle(w, "b", &wire, &[], "sleep 1000");
        annotate(&mut b, &[(keys[0], "container"), (keys[1], &sandbox)]);
        w.create("b", &b);
        let containers = saved(w, "b")["containers"].as_object().expect("containers").len();
        assert_eq!(containers, 2);
        for name in ["a", "b"] {
            remove(w, name);
        }
        wire.check();
    }
}

fn size(w: &World) {
    let wire = Wire::plugged(w, "n");
    let mut a = bundle(w, "a", &wire, &[], "sleep 1000");
    let gib = (3_u64 << 30).to_string();
    annotate(
        &mut a,
        &[
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-cpu-quota", "150000"),
            ("io.kubernetes.cri.sandbox-cpu-period", "100000"),
            ("io.kubernetes.cri.sandbox-memory", &gib),
        ],
    );
    w.create("a", &a);
    start(w, "a");
    let total = inside(w, "a", "awk '/MemTotal/ {print $2}' /proc/meminfo");
    let total: u64 = total.parse().expect("kB");
    assert!((3 << 20) <= total, "{total} kB");
    let host = thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(inside(w, "a", "nproc"), host.min(2).to_string());
    remove(w, "a");
    wire.check();
}

fn refused(w: &World) {
    let wire = Wire::plugged(w, "n");
    w.create("a", &bundle(w, "a", &wire, &[], "sleep 1000"));
    start(w, "a");
    // A process that stands for no container.
    let own = i32::try_from(std::process::id()).expect("a pid");
    let stranger = bundle(w, "b", &wire, &[("ipc", own)], "true");
    w.run_with("b", &stranger, b"")
        .refuses(&["ipc namespace", "no container of this sandbox"]);
    // Another engine's.
    let elsewhere = w.dir().join("elsewhere");
    let mut command = w.runtime();
    command.arg("--root").arg(&elsewhere).args(["run", "--bundle"]);
    let b = bundle(w, "b", &wire, &[], "true");
    command::run(command.arg(&b.path).arg(w.id("b")), b"").refuses(&["join the sandbox", "--root"]);
    assert!(fs::read_dir(&elsewhere).map_or(0, Iterator::count) == 0);
    // An id that is taken in the sandbox.
    w.run_with("a", &b, b"").refuses(&["already exists"]);
    assert_eq!(inside(w, "a", "echo lives"), "lives");
    remove(w, "a");
    wire.check();
}
