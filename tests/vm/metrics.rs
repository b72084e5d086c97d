// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The numbers of sandboxes: whatever state a sandbox is in, and however it is asked, they tell the truth and do it no harm.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use libtest_mimic::Trial;
use metrics::family;
use metrics::text::{Sample, parse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use vm_tests::{Verdict, World, command, ours};

use crate::crash::players;

pub fn cases() -> Vec<Trial> {
    let mut cases = vec![
        ours("metrics::every_family_of_a_running_sandbox", every_family),
        ours("metrics::the_linter_of_prometheus_is_content", linted),
        ours("metrics::a_paused_container_and_a_machine_that_stands_still", still),
        ours("metrics::many_at_once_and_clients_that_hang", crowd),
        ours("metrics::a_node_tells_of_all_its_sandboxes", node),
        ours("metrics::what_cannot_be_is_refused_in_a_line", refusals),
    ];
    for role in ["qemu", "device"] {
        cases.push(ours(&format!("metrics::after_kill_of_{role}"), move |w| dead(w, role)));
    }
    cases
}

/// A container that runs.
fn running(w: &World, name: &str) {
    let bundle = w.bundle(name, "while :; do sleep 1; done");
    w.create(name, &bundle);
    w.oci(&["start", &w.id(name)]).exits(0);
}

#[track_caller]
fn page(w: &World, name: &str) -> String {
    String::from_utf8(w.oci(&["metrics", &w.id(name)]).exits(0).stdout.clone()).expect("text")
}

/// The number of the line with these values of its labels.
#[track_caller]
fn number(samples: &[Sample<'_>], name: &str, values: &[&str]) -> f64 {
    let fits = |sample: &&Sample<'_>| {
        let labels: Vec<_> = sample.labels.iter().map(|(_, value)| value.as_str()).collect();
        sample.family.name == name && values.iter().all(|value| labels.contains(value))
    };
    let found = samples.iter().find(fits);
    found.unwrap_or_else(|| panic!("{name} {values:?} is missing")).number
}

#[track_caller]
fn says(text: &str, name: &str, values: &[&str], want: f64) {
    let samples = parse(text).unwrap_or_else(|e| panic!("{}: {text}", e.chain()));
    assert_eq!(
        number(&samples, name, values).to_bits(),
        want.to_bits(),
        "{name} {values:?}: {text}"
    );
}

fn get(mut stream: impl Read + Write, path: &str) -> String {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read the answer");
    text
}

fn socket(w: &World, name: &str) -> UnixStream {
    // Where Kata has it; deep directories are no matter.
    let path = w.root().join(w.id(name)).join("shim-monitor.sock");
    base::socket::connect(&path).expect("the sandbox listens")
}

fn works(w: &World, name: &str) {
    assert_eq!(w.oci(&["exec", &w.id(name), "echo", "alive"]).exits(0).text(), "alive");
}

fn every_family(w: &World) {
    running(w, "c");
    works(w, "c");
    let first = page(w, "c");
    let second = page(w, "c");
    let samples = parse(&second).expect("a page of ours");
    let told: BTreeSet<_> = samples.iter().map(|sample| sample.family.name).collect();
    // The node's are told by the node; a guest without block devices has none to tell of.
    let elsewhere = |name: &str| name.starts_with("kata_monitor_") || name == family::GUEST_DISKSTAT.name;
    let all = family::ALL
        .iter()
        .map(|family| family.name)
        .filter(|name| !elsewhere(name));
    let missing: Vec<_> = all.filter(|name| !told.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing: {second}");
    let mut seen = BTreeSet::new();
    for sample in &samples {
        let labels = format!("{:?}", sample.labels);
        assert!(
            seen.insert((sample.family.name, sample.part, labels)),
            "twice: {sample:?}"
        );
        assert!(sample.number >= 0.0, "{sample:?}");
    }
    for (name, values, want) in [
        ("kata_guest_up", &[][..], 1.0),
        ("kata_hypervisor_up", &[], 1.0),
        ("kata_device_up", &[], 1.0),
        ("kata_shim_containers", &["running"], 1.0),
        ("kata_carrier_processes", &[], 1.0),
        ("kata_shim_scrapes_total", &[], 2.0),
    ] {
        says(&second, name, values, want);
    }
    assert!(second.contains("kata_hypervisor_info{hypervisor=\"qemu"), "{second}");
    let before = parse(&first).expect("a page of ours");
    for name in [
        "kata_agent_scrape_count",
        "kata_shim_process_cpu_seconds_total",
        "kata_agent_process_cpu_seconds_total",
    ] {
        assert!(
            number(&samples, name, &[]) >= number(&before, name, &[]),
            "{name} goes up only"
        );
    }
    // The guest's own view: its memory is the machine's, but for what its kernel keeps.
    let told = number(&samples, "kata_guest_meminfo", &["mem_total"]) * 1024.0;
    let has = number(&samples, "kata_hypervisor_memory_bytes", &[]);
    assert!(told <= has && told > has / 2.0, "{told} of {has}");
    let qemu = players(w, "qemu")[0];
    let status = fs::read_to_string(format!("/proc/{qemu}/status")).expect("it runs");
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))
        .expect("threads");
    let threads: f64 = threads.trim().parse().expect("a number");
    assert!((number(&samples, "kata_hypervisor_threads", &[]) - threads).abs() <= 4.0);
    for (action, count) in [("create", 1.0), ("exec", 1.0), ("start", 2.0)] {
        let calls = samples.iter().find(|sample| {
            sample.family.name == family::SHIM_RPC.name && sample.part == "_count" && sample.labels[0].1 == action
        });
        assert_eq!(calls.map(|sample| sample.number), Some(count), "{action}: {second}");
    }
    let agent = get(socket(w, "c"), "/agent-url");
    assert!(
        agent.contains("200 OK") && agent.ends_with("/vsock.sock:1024"),
        "{agent}"
    );
    assert!(get(socket(w, "c"), "/other").contains("404 "));
    assert!(get(socket(w, "c"), "/metrics").contains("text/plain; version=0.0.4"));
    works(w, "c");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

/// What Prometheus' tool says of a page: errors, and what it would name otherwise.
fn promtool(page: &str) -> Option<(i32, String)> {
    Command::new("promtool").arg("--version").output().ok()?;
    let outcome = command::run(Command::new("promtool").args(["check", "metrics"]), page.as_bytes());
    Some((outcome.code, format!("{}{}", outcome.text(), outcome.stderr)))
}

/// Those whose names are Kata's, and not as Prometheus advises by now: what is said of them, and nothing else, is known.
const KATAS: [&str; 9] = [
    "kata_shim_io_stat",
    "kata_shim_rpc_durations_histogram_milliseconds",
    "kata_shim_agent_rpc_durations_histogram_milliseconds",
    "kata_agent_scrape_count",
    "kata_monitor_scrape_count",
    "kata_monitor_scrape_failed_count",
    "kata_monitor_running_shim_count",
    "kata_monitor_scrape_durations_histogram_milliseconds",
    "kata_hypervisor_info",
];

#[track_caller]
fn content(said: &(i32, String)) {
    // 3: there is advice; anything else is an error.
    assert!(matches!(said.0, 0 | 3), "{said:?}");
    for line in said.1.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        assert!(KATAS.contains(&name), "{line}");
    }
}

fn linted(w: &World) -> Verdict {
    running(w, "c");
    let said = promtool(&page(w, "c"));
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    match said {
        Some(said) => content(&said),
        None => return Verdict::Skipped("promtool is not installed (package prometheus)".into()),
    }
    Verdict::Held
}

fn still(w: &World) {
    running(w, "c");
    w.oci(&["pause", &w.id("c")]).exits(0);
    let text = page(w, "c");
    says(&text, "kata_shim_containers", &["paused"], 1.0);
    says(&text, "kata_guest_up", &[], 1.0);
    w.oci(&["resume", &w.id("c")]).exits(0);
    let qemu = Pid::from_raw(players(w, "qemu")[0]);
    kill(qemu, Signal::SIGSTOP).expect("stop the machine");
    // What the guest said last holds for a moment.
    command::until("the guest does not answer", || {
        page(w, "c").contains("kata_guest_up 0\n")
    });
    // Several at once: they wait for the guest together.
    let texts: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| page(w, "c"))).collect();
        asked.into_iter().map(|asked| asked.join().expect("a page")).collect()
    });
    let state = w.state("c");
    kill(qemu, Signal::SIGCONT).expect("let the machine go on");
    for text in texts {
        says(&text, "kata_guest_up", &[], 0.0);
        says(&text, "kata_hypervisor_up", &[], 1.0);
        assert!(!text.contains("kata_guest_meminfo"), "{text}");
        assert!(
            text.contains("kata_hypervisor_pss_bytes ") && text.contains("kata_shim_fds "),
            "{text}"
        );
    }
    assert_eq!(state["status"], "running");
    command::until("the guest answers again", || page(w, "c").contains("kata_guest_up 1\n"));
    works(w, "c");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn dead(w: &World, role: &str) {
    running(w, "c");
    for pid in players(w, role) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }
    w.until_status("c", "stopped");
    let text = page(w, "c");
    for name in ["kata_guest_up", "kata_hypervisor_up", "kata_device_up"] {
        says(&text, name, &[], 0.0);
    }
    says(&text, "kata_shim_containers", &["stopped"], 1.0);
    assert!(
        text.contains("kata_shim_agent_rpc_durations") && text.contains("kata_shim_threads "),
        "{text}"
    );
    assert!(get(socket(w, "c"), "/agent-url").contains("503 "));
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn crowd(w: &World) {
    running(w, "c");
    // More than have a place inside, and none of them says a word or listens.
    let mut silent: Vec<_> = (0..20).map(|_| socket(w, "c")).collect();
    for deaf in silent.iter_mut().step_by(2) {
        let _ = deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
    }
    for mut hostile in (0..4).map(|_| socket(w, "c")) {
        let _ = hostile.write_all(&[0xff; 4096]);
    }
    works(w, "c");
    command::until("there is a place again", || w.oci(&["metrics", &w.id("c")]).code == 0);
    drop(silent);
    thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| page(w, "c"))).collect();
        for asked in asked {
            says(&asked.join().expect("a page"), "kata_guest_up", &[], 1.0);
        }
    });
    works(w, "c");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

/// `kata monitor`, until it is dropped.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    fn start(w: &World, words: &[&str]) -> Node {
        let mut command = w.kata();
        command.args(["monitor", "--listen", "127.0.0.1:0"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start kata monitor");
        let mut address = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out)
            .read_line(&mut address)
            .expect("it says where it listens");
        Node {
            child,
            address: address.trim().to_owned(),
        }
    }

    fn get(&self, path: &str) -> String {
        get(TcpStream::connect(&self.address).expect("it listens"), path)
    }

    fn end(mut self) -> i32 {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        command::end(&mut self.child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node(w: &World) {
    let further = w.dir().join("further");
    let mut bundle = w.bundle("pod", "sleep 1000");
    for (key, value) in [("uid", "1-2-3"), ("name", "web"), ("namespace", "shop")] {
        let key = format!("io.kubernetes.cri.sandbox-{key}");
        bundle.spec["annotations"][key] = json!(value);
    }
    bundle.write();
    w.create("pod", &bundle);
    w.oci(&["start", &w.id("pod")]).exits(0);
    running(w, "lone");
    let node = Node::start(w, &["--root", &further.display().to_string()]);
    let (pod, lone) = (w.id("pod"), w.id("lone"));
    let listed = node.get("/sandboxes");
    assert!(
        listed.contains(&format!("{pod}\n")) && listed.contains(&format!("{lone}\n")),
        "{listed}"
    );
    let text = node.get("/metrics");
    let (head, text) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("200 OK") && head.contains("version=0.0.4"), "{head}");
    says(text, "kata_monitor_sandbox_up", &[&pod], 1.0);
    let samples = parse(text).expect("a page of ours");
    let ours = samples
        .iter()
        .filter(|sample| sample.labels.iter().any(|(_, value)| *value == pod));
    for sample in ours {
        for label in [("cri_uid", "1-2-3"), ("cri_name", "web"), ("cri_namespace", "shop")] {
            assert!(sample.labels.contains(&(label.0, label.1.to_owned())), "{sample:?}");
        }
    }
    says(text, "kata_guest_up", &[&lone], 1.0);
    assert!(number(&samples, "kata_monitor_running_shim_count", &[]) >= 2.0);
    if let Some(said) = promtool(text) {
        content(&said);
    }
    let one = node.get(&format!("/metrics?sandbox={lone}"));
    assert!(
        one.contains(&lone) && !one.contains(&pod) && !one.contains("kata_monitor_scrape_count"),
        "{one}"
    );
    assert!(node.get("/metrics?sandbox=none").contains("404 "));
    assert!(node.get("/").contains("/sandboxes"));
    // A sandbox that is dead is told as dead.
    let monitors = players(w, "monitor").into_iter().filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("--lease-fd=") && line.contains(&lone)
    });
    for pid in monitors {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }
    w.until_status("lone", "stopped");
    let text = node.get("/metrics");
    let text = text.split_once("\r\n\r\n").expect("a body").1;
    says(text, "kata_monitor_sandbox_up", &[&lone], 0.0);
    says(text, "kata_monitor_sandbox_up", &[&pod], 1.0);
    assert!(number(&parse(text).expect("a page"), "kata_monitor_scrape_failed_count", &[]) >= 1.0);
    w.oci(&["metrics", &lone])
        .refuses(&["monitor of the sandbox", "does not listen"]);
    works(w, "pod");
    for name in ["lone", "pod"] {
        w.oci(&["delete", "--force", &w.id(name)]).exits(0);
    }
    let text = node.get("/metrics");
    assert!(
        !text.contains(&pod) && text.contains("kata_monitor_scrape_count 3\n"),
        "{text}"
    );
    assert_eq!(node.end(), 0, "it ends when it is told to");
}

fn refusals(w: &World) {
    w.oci(&["metrics", "none"])
        .refuses(&["no container and no sandbox none", "root"]);
    let kata = |words: &[&str]| command::run(w.kata().args(words), b"");
    kata(&["metrics", "none"]).refuses(&["no container and no sandbox none"]);
    kata(&["monitor", "--listen", "nowhere"]).refuses(&["nowhere", "--listen"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    kata(&["monitor", "--listen", &address]).refuses(&[&address, "in use"]);
    assert!(!Path::new(&w.root()).join("none").exists());
}
