// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Machines that wait: who takes one gets all that a machine of its own would give, nobody gets one twice, and whatever dies leaves
//! nothing. Each case has a pool of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::podman::Podman;
use vm_tests::suite::Suite;
use vm_tests::{Bundle, Verdict, Wire, World, command, leak, ours, world};

pub fn cases() -> Vec<Trial> {
    let mut cases = vec![
        ours("standby::taken_and_made_anew", taken),
        ours("standby::whole", whole),
        ours("standby::fresh", fresh),
        ours("standby::more_takers_than_machines", exhausted),
        ours("standby::others_start_as_without", unfit),
        ours("standby::seen_from_the_takers_mounts", mounts),
        ours("standby::with_a_network", network),
        ours("standby::in_the_takers_control_group", cgroup),
        ours("standby::template_made_anew", template),
        ours("standby::stop_and_start", stop),
        ours("standby::killed_keeper", killed_keeper),
        ours("standby::killed_with_its_keeper", killed_together),
        ours("standby::podman", podman),
        ours("standby::kata_run", kata_run),
    ];
    for (name, at) in [("monitor", 0), ("qemu", 1), ("device", 2)] {
        cases.push(ours(&format!("standby::killed_{name}_while_it_waits"), move |w| {
            killed_waiting(w, at);
        }));
    }
    for role in ["monitor", "qemu", "device", "runtime"] {
        cases.push(ours(&format!("standby::killed_{role}_while_taken"), move |w| {
            killed_taking(w, role);
        }));
    }
    cases
}

/// A pool of this world's own, which ends with it.
struct Pool<'w>(&'w World);

impl<'w> Pool<'w> {
    /// With `count` machines that wait.
    #[track_caller]
    fn start(world: &'w World, count: usize) -> Pool<'w> {
        let pool = Pool(world);
        let mut build = Command::new(world::binaries().join("kata"));
        build.args(["guest", "template", "build"]);
        command::run(build.env("KATA_TEMPLATE_DIR", templates(world)), b"").exits(0);
        let count = count.to_string();
        command::run(pool.tool().args(["start", "--count", &count]), b"").exits(0);
        pool
    }

    fn dir(&self) -> PathBuf {
        self.0.dir().join("pool")
    }

    fn tool(&self) -> Command {
        let mut command = Command::new(world::binaries().join("kata"));
        command.env("KATA_TEMPLATE_DIR", templates(self.0));
        command.env("KATA_STANDBY_DIR", self.dir()).arg("standby");
        command
    }

    /// What `status` says.
    fn status(&self) -> Value {
        let outcome = command::run(self.tool().args(["status", "--json"]), b"");
        serde_json::from_slice(&outcome.exits(0).stdout).expect("JSON")
    }

    /// Names of those that wait.
    fn ready(&self) -> Vec<String> {
        let status = self.status();
        let machines = status["machines"].as_array().expect("a list").clone();
        let ready = machines.into_iter().filter(|machine| machine["ready"] == true);
        ready
            .map(|machine| machine["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    #[track_caller]
    fn full(&self, count: usize) {
        command::until("the machines wait", || self.ready().len() == count);
    }

    /// The processes of the first one: monitor first.
    fn processes(&self) -> Vec<i32> {
        let about = self.status()["machines"][0]["about"].clone();
        let number = |pid: &Value| i32::try_from(pid.as_i64().expect("a pid")).expect("a pid");
        let mut processes = vec![number(&about["monitor"])];
        let others = about["processes"].as_array().expect("a list");
        processes.extend(others.iter().map(number));
        // The hypervisor before the device process.
        processes[1..].sort_by_key(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !line.contains("qemu-system")
        });
        processes
    }

    fn keeper(&self) -> i32 {
        i32::try_from(self.status()["keeper"]["pid"].as_i64().expect("a keeper")).expect("a pid")
    }

    /// The runtime, which may take machines of this pool, logging to `<world>/log`.
    fn runtime(&self) -> Command {
        let mut command = self.0.runtime();
        command.env("KATA_STANDBY_DIR", self.dir());
        command.env("KATA_TEMPLATE_DIR", templates(self.0));
        command.arg("--log").arg(self.0.dir().join("log"));
        command
    }

    fn create(&self, name: &str, bundle: &Bundle) {
        let mut command = self.runtime();
        command
            .args(["create", "--bundle"])
            .arg(&bundle.path)
            .arg(self.0.id(name));
        command::run(&mut command, b"").exits(0);
    }

    fn run(&self, name: &str, bundle: &Bundle) -> Child {
        let mut command = self.runtime();
        command.args(["run", "--bundle"]).arg(&bundle.path).arg(self.0.id(name));
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().expect("the runtime runs")
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let outcome = command::run(self.tool().arg("stop"), b"");
        if outcome.code != 0 {
            eprintln!("kata standby stop: {}", outcome.stderr);
        }
    }
}

fn templates(w: &World) -> PathBuf {
    w.dir().join("templates")
}

fn log(w: &World) -> String {
    fs::read_to_string(w.dir().join("log")).unwrap_or_default()
}

/// Whether the machine of a sandbox waited for it.
fn waited(w: &World, name: &str) -> bool {
    let text = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
    let state: Value = serde_json::from_slice(&text).expect("JSON");
    let spans = state["spans"].as_array().expect("spans");
    spans.iter().any(|span| span["name"] == "wake")
}

fn delete(w: &World, name: &str) {
    w.oci(&["delete", "--force", &w.id(name)]).exits(0);
}

/// The output of a `run` in the foreground that ends well.
#[track_caller]
fn output(child: &mut Child) -> String {
    let mut text = String::new();
    let mut out = child.stdout.take().expect("piped");
    out.read_to_string(&mut text).expect("read");
    assert_eq!(command::end(child), 0, "{text}");
    text
}

/// Waits until they are gone; one that nobody has reaped yet is.
#[track_caller]
fn ended(processes: &[i32]) {
    let lives = |pid: &i32| fs::exists(format!("/proc/{pid}/exe")).unwrap_or(true);
    command::until("its processes have ended", || !processes.iter().any(lives));
}

fn strike(pid: i32) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn taken(w: &World) {
    let pool = Pool::start(w, 1);
    let first = pool.ready();
    for name in ["one", "two"] {
        pool.full(1);
        pool.create(name, &w.bundle(name, "true"));
        assert!(waited(w, name), "{}", log(w));
        assert!(!pool.dir().join(&first[0]).exists(), "it is used once");
    }
    pool.full(1);
    assert_ne!(pool.ready(), first);
    for name in ["one", "two"] {
        delete(w, name);
    }
    // One without a pool.
    w.create("three", &w.bundle("three", "true"));
    assert!(!waited(w, "three"));
    delete(w, "three");
    assert!(!log(w).contains("waits"), "{}", log(w));
}

fn whole(w: &World) {
    let pool = Pool::start(w, 1);
    let mut bundle = w.bundle(
        "c",
        "cat; cat /volume/in; echo err >&2; echo out > /volume/out; exit 42",
    );
    let volume = w.dir().join("volume");
    fs::create_dir(&volume).expect("create");
    fs::write(volume.join("in"), "of the host\n").expect("write");
    bundle.mount("/volume", "bind", &volume.to_string_lossy(), &["rbind", "rw"]);
    let mut command = pool.runtime();
    command
        .args(["run", "--keep", "--bundle"])
        .arg(&bundle.path)
        .arg(w.id("c"));
    let outcome = command::run(&mut command, b"of the client\n");
    outcome.exits(42);
    assert_eq!(outcome.text(), "of the client\nof the host");
    assert!(outcome.stderr.ends_with("err\n"), "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(volume.join("out")).expect("read"), "out\n");
    assert!(waited(w, "c"));
    delete(w, "c");
    pool.full(1);
    pool.create(
        "d",
        &w.bundle("d", "trap 'exit 7' TERM; touch /ready; while :; do sleep 0.05; done"),
    );
    assert!(waited(w, "d"));
    w.oci(&["start", &w.id("d")]).exits(0);
    let ready = w.dir().join("bundle-d/rootfs/ready");
    command::until("it runs", || ready.exists());
    let exec = w.oci(&[
        "exec",
        &w.id("d"),
        "sh",
        "-c",
        "echo $((6 * 7)); hostname; ls -d /rehearsal /program",
    ]);
    assert!(exec.text().starts_with("42\n"), "{}", exec.text());
    assert!(
        !exec.text().contains("rehearsal") && !exec.text().contains("program"),
        "{}",
        exec.text()
    );
    let cgroups = w.oci(&["exec", &w.id("d"), "cat", "/proc/self/cgroup"]).text();
    assert!(!cgroups.contains("rehearsal"), "{cgroups}");
    w.oci(&["kill", &w.id("d"), "TERM"]).exits(0);
    w.until_status("d", "stopped");
    delete(w, "d");
}

fn fresh(w: &World) {
    const COUNT: usize = 4;
    let pool = Pool::start(w, COUNT);
    let script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id; mktemp -u; date +%s";
    let names: Vec<String> = (0..COUNT).map(|n| format!("c{n}")).collect();
    // Those that have been stopped for a while have another idea of the time.
    thread::sleep(Duration::from_secs(8));
    let mut seen: [BTreeSet<String>; 3] = Default::default();
    for name in &names {
        let mut command = pool.runtime();
        let bundle = w.bundle(name, script);
        command
            .args(["run", "--keep", "--bundle"])
            .arg(&bundle.path)
            .arg(w.id(name));
        let text = command::run(&mut command, b"").exits(0).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (seen, line) in seen.iter_mut().zip(&lines) {
            seen.insert((*line).to_owned());
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        let told: u64 = lines[3].parse().expect("seconds");
        assert!(now.as_secs().abs_diff(told) <= 2, "{told} is not now");
        assert!(waited(w, name));
        delete(w, name);
    }
    for (what, seen) in ["random bytes", "boot ids", "random names"].iter().zip(&seen) {
        assert_eq!(seen.len(), COUNT, "{what} differ: {seen:?}");
    }
}

fn exhausted(w: &World) {
    let pool = Pool::start(w, 2);
    let names: Vec<String> = (0..5).map(|n| format!("c{n}")).collect();
    let script = "echo here; while [ ! -e /go ]; do sleep 0.05; done";
    let mut children: Vec<Child> = names
        .iter()
        .map(|name| pool.run(name, &w.bundle(name, script)))
        .collect();
    for name in &names {
        command::until(&format!("{name} is up"), || {
            let state = fs::read_to_string(w.sandbox(name).join("state.json")).unwrap_or_default();
            state.contains("\"running\"")
        });
    }
    let lucky = names.iter().filter(|name| waited(w, name)).count();
    assert!((2..names.len()).contains(&lucky), "{lucky} of {} waited", names.len());
    for name in &names {
        fs::write(w.dir().join(format!("bundle-{name}/rootfs/go")), "").expect("write");
    }
    for child in &mut children {
        assert_eq!(output(child), "here\n");
    }
    assert!(!log(w).contains("no use"), "{}", log(w));
    pool.full(2);
}

fn unfit(w: &World) {
    let pool = Pool::start(w, 1);
    let before = pool.ready();
    let mut bundle = w.bundle("c", "true");
    bundle.set("/linux/resources", json!({"memory": {"limit": 64 << 20}}));
    pool.create("size", &bundle);
    let mut bundle = w.bundle("d", "true");
    let annotation = "io.katacontainers.config.hypervisor.enable_template";
    bundle.set("/annotations", json!({ annotation: "false" }));
    pool.create("template", &bundle);
    for name in ["size", "template"] {
        assert!(!waited(w, name), "{name}");
    }
    let mut command = pool.runtime();
    command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("size"));
    command::run(&mut command, b"").refuses(&["already exists"]);
    let mut bundle = w.bundle("e", "true");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    bundle.write();
    let mut command = pool.runtime();
    command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("host"));
    command::run(&mut command, b"").refuses(&["host network"]);
    assert_eq!(pool.ready(), before, "nobody has touched it");
    delete(w, "size");
    delete(w, "template");
}

/// In a mount namespace of the taker's own, with a bundle and a volume that nobody else sees.
fn mounts(w: &World) {
    let pool = Pool::start(w, 1);
    let place = w.dir().join("hidden");
    fs::create_dir(&place).expect("create");
    let mut bundle = w.bundle("c", "cat /volume/text; echo written > /volume/out");
    bundle.mount("/volume", "bind", &place.to_string_lossy(), &["rbind", "rw"]);
    let runtime = pool.runtime();
    let script = format!(
        "mount -t tmpfs tmpfs {place} && echo hidden > {place}/text && \"$@\" && cat {place}/out",
        place = place.display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .current_dir(w.dir());
    command.arg(runtime.get_program()).args(runtime.get_args());
    command.envs(runtime.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
        .args(["run", "--keep", "--bundle"])
        .arg(&bundle.path)
        .arg(w.id("c"));
    let outcome = command::run(&mut command, b"");
    assert_eq!(outcome.exits(0).text(), "hidden\nwritten");
    assert!(waited(w, "c"));
    assert!(!place.join("text").exists());
    delete(w, "c");
}

fn network(w: &World) {
    let pool = Pool::start(w, 1);
    let wire = Wire::plugged(w, "n");
    let script = "ls /sys/class/net; ip -o -4 addr show eth0; ping -c 1 -W 20 10.77.0.1 | grep -c '1 packets received'";
    let mut bundle = w.bundle("c", script);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({"type": "network", "path": wire.path()}));
    for set in ["bounding", "effective", "permitted"] {
        let set = bundle.spec["process"]["capabilities"][set].as_array_mut();
        set.expect("capabilities").push(json!("CAP_NET_RAW"));
    }
    bundle.write();
    let mut command = pool.runtime();
    command
        .args(["run", "--keep", "--bundle"])
        .arg(&bundle.path)
        .arg(w.id("c"));
    let text = command::run(&mut command, b"").exits(0).text();
    assert!(text.contains("eth0") && text.contains("inet 10.77.0.2/24"), "{text}");
    assert!(text.ends_with('1') && !text.contains("kata"), "{text}");
    assert!(waited(w, "c"), "{}", log(w));
    delete(w, "c");
    // Nothing of ours stays in the engine's namespace.
    wire.check();
}

fn cgroup(w: &World) {
    let pool = Pool::start(w, 1);
    let processes = pool.processes();
    let mut bundle = w.bundle("c", "sleep 1000");
    let group = format!("/{}", w.id("group"));
    bundle.set("/linux/cgroupsPath", json!(group));
    pool.create("c", &bundle);
    assert!(waited(w, "c"));
    for pid in processes {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
        assert!(groups.lines().all(|line| line.ends_with(&group)), "{pid}: {groups}");
        let nice = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let nice = nice.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16));
        assert_eq!(nice, Some("0"), "{pid}");
    }
    delete(w, "c");
}

fn template(w: &World) {
    let pool = Pool::start(w, 1);
    let before = pool.ready();
    let mut build = Command::new(world::binaries().join("kata"));
    build.args(["guest", "template", "build", "--force"]);
    command::run(build.env("KATA_TEMPLATE_DIR", templates(w)), b"").exits(0);
    pool.create("c", &w.bundle("c", "true"));
    assert!(!waited(w, "c"), "it is a machine of the old template");
    command::until("it is replaced", || {
        let now = pool.ready();
        now.len() == 1 && now != before
    });
    pool.create("d", &w.bundle("d", "true"));
    assert!(waited(w, "d"));
    delete(w, "c");
    delete(w, "d");
}

fn stop(w: &World) {
    let pool = Pool::start(w, 2);
    command::run(pool.tool().arg("start"), b"").refuses(&["standby stop"]);
    pool.create("c", &w.bundle("c", "echo alive"));
    let taken = waited(w, "c");
    command::run(pool.tool().arg("stop"), b"").exits(0);
    assert!(!pool.dir().exists());
    assert_eq!(pool.status()["keeper"], Value::Null);
    assert!(taken);
    w.until_status("c", "created");
    let exec = w.oci(&["start", &w.id("c")]);
    exec.exits(0);
    w.until_status("c", "stopped");
    delete(w, "c");
    leak::check(w);
    command::run(pool.tool().args(["start", "--memory", "10"]), b"").refuses(&["template"]);
    command::run(pool.tool().arg("stop"), b"").exits(0);
    command::run(pool.tool().arg("start"), b"").exits(0);
    assert_eq!(pool.ready().len(), 1);
}

fn killed_keeper(w: &World) {
    let pool = Pool::start(w, 2);
    pool.create("c", &w.bundle("c", "sleep 1000"));
    strike(pool.keeper());
    command::until("what waits ends with it", || pool.ready().is_empty());
    assert!(waited(w, "c"));
    w.oci(&["start", &w.id("c")]).exits(0);
    w.until_status("c", "running");
    delete(w, "c");
    pool.create("d", &w.bundle("d", "true"));
    assert!(!waited(w, "d"));
    delete(w, "d");
    command::run(pool.tool().arg("start"), b"").exits(0);
    assert_eq!(pool.ready().len(), 1);
}

/// Nobody is left who could tidy up: the next one who looks does.
fn killed_together(w: &World) {
    let pool = Pool::start(w, 1);
    let processes = pool.processes();
    let keeper = pool.keeper();
    strike(processes[0]);
    strike(keeper);
    ended(&processes);
    pool.create("c", &w.bundle("c", "true"));
    assert!(!waited(w, "c"));
    delete(w, "c");
    command::run(pool.tool().arg("stop"), b"").exits(0);
    assert!(!pool.dir().exists());
}

fn killed_waiting(w: &World, at: usize) {
    let pool = Pool::start(w, 1);
    let first = pool.ready();
    let processes = pool.processes();
    strike(processes[at]);
    pool.create("c", &w.bundle("c", "true"));
    delete(w, "c");
    command::until("another one waits", || {
        let now = pool.ready();
        now.len() == 1 && now != first
    });
    ended(&processes);
    assert!(!pool.dir().join(&first[0]).exists());
}

fn killed_taking(w: &World, role: &str) {
    let pool = Pool::start(w, 1);
    let bundle = w.bundle("c", "true");
    for delay in [0, 2, 5, 10, 20, 40, 80] {
        pool.full(1);
        let processes = pool.processes();
        let mut command = pool.runtime();
        command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("spawn");
        thread::sleep(Duration::from_millis(delay));
        strike(match role {
            "monitor" => processes[0],
            "qemu" => processes[1],
            "device" => processes[2],
            _ => i32::try_from(child.id()).expect("a pid"),
        });
        let code = command::end(&mut child);
        if code == 0 {
            w.oci(&["state", &w.id("c")]).exits(0);
        }
        delete(w, "c");
        command::until("its processes have ended", || {
            processes[1..]
                .iter()
                .all(|pid| !fs::exists(format!("/proc/{pid}/exe")).unwrap_or(true))
                || pool.status()["machines"][0]["about"]["monitor"] == processes[0]
        });
        assert!(!w.sandbox("c").exists(), "{delay} ms");
    }
}

/// Podman asks us through its own processes: without networks, and with one.
fn podman(w: &World) -> Verdict {
    let pool = Pool::start(w, 1);
    let podman = match Podman::new(w, Suite::Host) {
        Ok(podman) => podman,
        Err(why) => return Verdict::Skipped(why),
    };
    let link = w.dir().join("kata-runtime");
    let guest = std::env::var("KATA_GUEST_DIR").map_or_else(|_| String::new(), |dir| format!("KATA_GUEST_DIR={dir}"));
    let script = format!(
        "#!/bin/sh\nexec env {guest} KATA_STANDBY_DIR={} KATA_TEMPLATE_DIR={} {} runtime \"$@\"\n",
        pool.dir().display(),
        templates(w).display(),
        fs::canonicalize(world::binaries().join("kata"))
            .expect("kata is built")
            .display()
    );
    fs::remove_file(&link).expect("remove");
    fs::write(&link, script).expect("write");
    fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).expect("make it executable");
    podman.run(&["network", "create", "net"]).exits(0);
    for network in ["none", "net"] {
        pool.full(1);
        let before = pool.ready();
        let script = "echo in $(ls /sys/class/net)";
        let outcome = podman.run(&["run", "--rm", "--network", network, IMAGE, "sh", "-c", script]);
        let text = outcome.exits(0).text();
        assert_eq!(text.contains("eth0"), network == "net", "{text}");
        assert!(text.starts_with("in ") && text.contains("lo"), "{text}");
        assert_ne!(pool.ready(), before, "{network}: the machine that waited was not used");
    }
    drop(podman);
    Verdict::Held
}

/// Its user-mode network is made with its machine, so that only one without takes a machine that waits.
fn kata_run(w: &World) -> Verdict {
    if Command::new("passt").arg("--version").output().is_err() {
        return Verdict::Skipped("passt is not installed".into());
    }
    let pool = Pool::start(w, 1);
    let image = format!("rootfs:{}", w.bundle("image", "true").rootfs().display());
    let kata = |args: &[&str]| {
        pool.full(1);
        let before = pool.ready();
        let mut command = w.kata();
        command.env("KATA_STANDBY_DIR", pool.dir());
        command.env("KATA_TEMPLATE_DIR", templates(w));
        let outcome = command::run(command.arg("run").args(args), b"");
        assert_ne!(pool.ready(), before, "{args:?}");
        outcome
    };
    for (network, interfaces) in [("user", 2), ("none", 1)] {
        let count = ["sh", "-c", "ls /sys/class/net | wc -l"];
        let outcome = kata(&[&["--rm", "--network", network, &image][..], &count].concat());
        assert_eq!(outcome.exits(0).text(), interfaces.to_string(), "{network}");
    }
    // passt is in the network of who asked, not in that in which the machine was made.
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(b"from the host\n").expect("write");
    });
    let network = ["--network", "user:allow_host_loopback=true"];
    // Its input does not end: passt of 2023 may lose an end that comes before the answer.
    let ask = format!("busybox mkfifo /tmp/f; busybox nc 10.0.2.2 {port} 0<> /tmp/f");
    let rest = ["--rm", &image, "sh", "-c", &ask];
    let outcome = kata(&[&network[..], &rest].concat());
    assert_eq!(outcome.exits(0).text(), "from the host");
    server.join().expect("the server ends");
    Verdict::Held
}
