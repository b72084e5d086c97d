// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Many sandboxes at once: copies of one template that must be fresh and whole, starts that must all succeed, and a crowd that
//! stays answerable. One case at a time: together they would not fit into a small host's memory.
//!
//! `KATA_TEST_SCALE` bounds how many sandboxes live at once, where memory is short.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::{Bundle, Verdict, Wire, World, command, ours, world};

/// Copies that are looked at closely.
const CLONES: usize = 20;
/// Starts at once.
const STARTS: usize = 50;
/// Sandboxes that idle side by side.
const CROWD: usize = 100;
/// MiB that one takes.
const EACH: usize = 170;

static ALONE: Mutex<()> = Mutex::new(());

pub fn cases() -> Vec<Trial> {
    vec![
        ours("scale::clones_at_once_are_fresh_and_whole", clones),
        ours("scale::starts_at_once_all_succeed", starts),
        ours("scale::a_crowd_stays_answerable", crowd),
    ]
}

/// One case at a time; one that failed does not matter to the next.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `wanted`, or what `KATA_TEST_SCALE` says; why not, if this host's memory is too small for so many now.
pub fn bounded(wanted: usize) -> Result<usize, Verdict> {
    let given = std::env::var("KATA_TEST_SCALE").ok();
    let most = given.and_then(|text| text.parse().ok()).unwrap_or(wanted);
    if most < wanted {
        println!("KATA_TEST_SCALE: {most} sandboxes in place of {wanted}");
    }
    let count = wanted.min(most);
    let text = fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free: usize = free
        .and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok())
        .expect("a number");
    let possible = free / 1024 / EACH;
    if possible < count {
        let why = format!("{count} sandboxes do not fit into memory now: KATA_TEST_SCALE={possible} tries fewer");
        return Err(Verdict::Skipped(why));
    }
    Ok(count)
}

/// The store of templates of this world: nobody else's machines begin there, and none that were made before.
fn templates(w: &World) -> PathBuf {
    w.dir().join("templates")
}

fn build_template(w: &World) {
    let mut command = Command::new(world::binaries().join("kata"));
    command
        .args(["guest", "template", "build"])
        .env("KATA_TEMPLATE_DIR", templates(w));
    command::run(&mut command, b"").exits(0);
}

fn runtime(w: &World) -> Command {
    let mut command = w.runtime();
    command.env("KATA_TEMPLATE_DIR", templates(w));
    command.arg("--log").arg(w.dir().join("log"));
    command
}

fn start(w: &World, name: &str, bundle: &Bundle) -> Child {
    let mut command = runtime(w);
    command.args(["run", "--bundle"]).arg(&bundle.path).arg(w.id(name));
    let errors = fs::File::create(w.dir().join(format!("{name}.err"))).expect("create");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    command.spawn().expect("the runtime runs")
}

/// What the runtime said on standard error.
fn said(w: &World, name: &str) -> String {
    fs::read_to_string(w.dir().join(format!("{name}.err"))).unwrap_or_default()
}

/// Reads `child`'s output to its end.
#[track_caller]
fn output(w: &World, name: &str, child: &mut Child) -> String {
    let mut text = String::new();
    let mut out = child.stdout.take().expect("piped");
    out.read_to_string(&mut text).expect("read");
    let code = command::end(child);
    assert_eq!(code, 0, "{name}: {text} {}", said(w, name));
    text
}

/// Whether the kernel was booted, in place of a copy.
fn booted(w: &World, name: &str) -> bool {
    let text = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
    let state: Value = serde_json::from_slice(&text).expect("JSON");
    let spans = state["spans"].as_array().expect("spans");
    spans.iter().any(|span| span["name"] == "kernel")
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// Values by name, of lines `name value`.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in: {text}")).trim()
}

/// What each copy tells of itself; it has written `/state` and waits for `/go`, both in the share.
const TELL: &str = "echo random $(head -c 16 /dev/urandom | base64); echo uuid $(cat /proc/sys/kernel/random/uuid); \
    echo boot $(cat /proc/sys/kernel/random/boot_id); echo mac $(cat /sys/class/net/eth0/address); \
    echo machine $(cat /etc/machine-id); echo time $(date +%s); echo name $(mktemp -u); echo host $(hostname); \
    cat /given > /state; while [ ! -e /go ]; do sleep 0.1; done; echo went $(cat /go)";

fn clones(w: &World) -> Verdict {
    let _alone = alone();
    let count = match bounded(CLONES) {
        Ok(count) => count,
        Err(skipped) => return skipped,
    };
    build_template(w);
    let names: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
    let wires: Vec<Wire> = names.iter().map(|name| Wire::plugged(w, name)).collect();
    let bundles: Vec<Bundle> = names
        .iter()
        .zip(&wires)
        .map(|(name, wire)| {
            let mut bundle = w.bundle(name, TELL);
            let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "network");
            namespaces.push(json!({"type": "network", "path": wire.path()}));
            bundle.set("/hostname", json!(name));
            fs::write(bundle.rootfs().join("etc/machine-id"), format!("machine-of-{name}\n")).expect("write");
            fs::write(bundle.rootfs().join("given"), format!("for {name}")).expect("write");
            bundle
        })
        .collect();
    let began = now();
    let mut children: Vec<Child> = names
        .iter()
        .zip(&bundles)
        .map(|(name, bundle)| start(w, name, bundle))
        .collect();
    for (name, bundle) in names.iter().zip(&bundles) {
        let state = bundle.rootfs().join("state");
        command::until(&format!("{name} has written ({})", said(w, name)), || {
            fs::read_to_string(&state).is_ok_and(|text| text == format!("for {name}"))
        });
        assert!(!booted(w, name), "{name} is no copy");
    }
    // All of them live now. A program more in each: the agent answers, with randomness of its own.
    let mut executed = BTreeSet::new();
    for (name, bundle) in names.iter().zip(&bundles) {
        assert_eq!(w.state(name)["status"], "running", "{name}");
        let outcome = w.oci(&[
            "exec",
            &w.id(name),
            "sh",
            "-c",
            "hostname; head -c 16 /dev/urandom | base64",
        ]);
        let text = outcome.exits(0).text();
        let (host, random) = text.split_once('\n').expect("two lines");
        assert_eq!(host, name);
        assert!(
            executed.insert(random.to_owned()),
            "{name} has random bytes of another one"
        );
        fs::write(bundle.rootfs().join("next"), name).expect("write");
        fs::rename(bundle.rootfs().join("next"), bundle.rootfs().join("go")).expect("rename");
    }
    let texts: Vec<String> = names
        .iter()
        .zip(&mut children)
        .map(|(name, child)| output(w, name, child))
        .collect();
    let ended = now();
    for what in ["random", "uuid", "boot", "mac", "machine", "name"] {
        let seen: BTreeSet<&str> = texts.iter().map(|text| value(text, what)).collect();
        assert!(!seen.contains("") && seen.len() == count, "{what} differ: {seen:?}");
    }
    for ((name, text), wire) in names.iter().zip(&texts).zip(&wires) {
        let told: u64 = value(text, "time").parse().expect("seconds");
        assert!(
            (began.saturating_sub(1)..=ended + 1).contains(&told),
            "{name}: {told} is not between {began} and {ended}"
        );
        assert_eq!(value(text, "machine"), format!("machine-of-{name}"));
        assert_eq!(
            (value(text, "host"), value(text, "went")),
            (name.as_str(), name.as_str())
        );
        let link = wire.near("-o link show eth0");
        assert!(link.contains(value(text, "mac")), "{name}: {text} {link}");
        wire.check();
    }
    Verdict::Held
}

fn starts(w: &World) -> Verdict {
    let _alone = alone();
    let count = match bounded(STARTS) {
        Ok(count) => count,
        Err(skipped) => return skipped,
    };
    build_template(w);
    let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
    let script = |name: &str| format!("echo out {name}; echo written by {name} > /file; cat /file; exit 0");
    let bundles: Vec<Bundle> = names.iter().map(|name| w.bundle(name, &script(name))).collect();
    let mut children: Vec<Child> = names
        .iter()
        .zip(&bundles)
        .map(|(name, bundle)| start(w, name, bundle))
        .collect();
    for ((name, bundle), child) in names.iter().zip(&bundles).zip(&mut children) {
        assert_eq!(
            output(w, name, child),
            format!("out {name}\nwritten by {name}\n"),
            "{}",
            said(w, name)
        );
        let file = fs::read_to_string(bundle.rootfs().join("file")).expect("the container's file");
        assert_eq!(file, format!("written by {name}\n"));
        assert_eq!(said(w, name), "", "{name} has something to say");
    }
    // They ended well, so that nobody warns of anything; the leak check is the harness's.
    let log = fs::read_to_string(w.dir().join("log")).expect("the log");
    let bad: Vec<&str> = log
        .lines()
        .filter(|line| [" warning ", " error "].iter().any(|word| line.contains(word)))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(log.contains(" info "), "the log is one: {log}");
    Verdict::Held
}

fn crowd(w: &World) -> Verdict {
    let _alone = alone();
    let count = match bounded(CROWD) {
        Ok(count) => count,
        Err(skipped) => return skipped,
    };
    build_template(w);
    let names: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
    for name in &names {
        let bundle = w.bundle(name, "sleep 100000");
        let mut command = runtime(w);
        command
            .args(["run", "--detach", "--bundle"])
            .arg(&bundle.path)
            .arg(w.id(name));
        command::run(&mut command, b"").exits(0);
    }
    // A while of nothing: who leaves, or stops to listen, is found.
    std::thread::sleep(Duration::from_secs(5));
    for name in &names {
        assert_eq!(w.state(name)["status"], "running", "{name}");
        let outcome = w.oci(&[
            "exec",
            &w.id(name),
            "sh",
            "-c",
            &format!("echo {name} > /in && cat /in"),
        ]);
        assert_eq!(outcome.exits(0).text(), *name);
    }
    let list: Value = serde_json::from_slice(&w.oci(&["list", "--format", "json"]).exits(0).stdout).expect("JSON");
    let running = list
        .as_array()
        .expect("a list")
        .iter()
        .filter(|one| one["status"] == "running");
    assert_eq!(running.count(), count);
    for name in &names {
        w.oci(&["delete", "--force", &w.id(name)]).exits(0);
        let file = w.dir().join(format!("bundle-{name}/rootfs/in"));
        assert_eq!(fs::read_to_string(file).expect("read").trim(), name);
    }
    Verdict::Held
}
