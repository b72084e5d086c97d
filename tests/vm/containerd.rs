// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What containerd's clients do by way of a shim, with runc's first and then with ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm_tests::behaviour::Behaviours;
use vm_tests::containerd::{Containerd, IMAGE};
use vm_tests::suite::Suite;
use vm_tests::terminal::Terminal;
use vm_tests::{Runtime, Verdict, World, both, command, leak};

pub fn cases() -> Vec<Trial> {
    Suite::ALL.into_iter().flat_map(group).collect()
}

fn group(suite: Suite) -> Vec<Trial> {
    let case = |name, work| case(suite, name, work);
    vec![
        case("output_and_exit_codes", output),
        case("a_task_from_start_to_end", life),
        case("further_processes", exec),
        case("events_in_order", events),
        case("terminals", terminal),
        case("files_and_programs_take_output", logs),
        case("what_makes_no_sense_is_refused", refusals),
        case("limits_and_counters", limits),
        case("containerd_is_restarted", restart),
        case("the_shim_is_killed", killed),
        case("containers_of_a_pod_have_one_shim", pod),
    ]
}

fn case(suite: Suite, name: &'static str, work: fn(&Containerd<'_>, &World)) -> Trial {
    both(&format!("{}::{name}", suite.group("containerd")), move |w| {
        let containerd = match Containerd::new(w, suite) {
            Ok(containerd) => containerd,
            Err(why) => return Verdict::Skipped(why),
        };
        let mut seen = Behaviours::new(&containerd.client, w);
        seen.see(&name.replace('_', " "), || work(&containerd, w));
        seen.end();
        Verdict::Held
    })
}

/// Waits until nothing of a container is there any more: shim, socket, state.
#[track_caller]
fn gone(c: &Containerd<'_>, shim: i32, socket: &Path) {
    command::until("the shim has ended", || !Path::new(&format!("/proc/{shim}")).exists());
    command::until("its socket is gone", || !socket.exists());
    let state = Path::new("/run/containerd/kata").join(c.namespace());
    let left = fs::read_dir(&state).map_or(0, Iterator::count);
    assert_eq!(left, 0, "left in {}", state.display());
}

/// Deletes a task, of whose exit code `ctr` tells.
#[track_caller]
fn deleted(c: &Containerd<'_>, name: &str, code: u32) {
    let outcome = c.ctr(&["tasks", "delete", name]);
    let told = format!("exit with non-zero exit code {code}");
    assert!(outcome.exits(0).stderr.contains(&told), "{told}: {}", outcome.stderr);
}

fn output(c: &Containerd<'_>, w: &World) {
    let done = c.run(&["--rm"], "a", "uname -r; echo error >&2; exit 3");
    let kernel = command::run(std::process::Command::new("uname").arg("-r"), b"").text();
    assert_eq!(done.exits(3).text() == kernel, w.runtime == Runtime::Reference);
    assert_eq!(done.stderr.trim(), "error");
    c.run(&["--rm"], "a", "sh -c 'kill -9 $$'; exit $?").exits(137);
    let much = c.run(&["--rm"], "a", "head -c 3000000 /dev/zero");
    assert_eq!(much.exits(0).stdout.len(), 3_000_000);
    let missing = c.ctr(&["run", "--rm", "--runtime", c.runtime(), IMAGE, "b", "/nosuch"]);
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("no such file"), "{}", missing.stderr);
    assert!(c.task("b").is_none());
}

fn life(c: &Containerd<'_>, _: &World) {
    c.run(
        &["-d"],
        "a",
        "trap 'exit 7' TERM; echo up > /tmp/up; while :; do sleep 0.1; done",
    )
    .exits(0);
    let (shim, socket) = (c.shim("a"), c.socket("a"));
    let (pid, status) = c.task("a").expect("it is listed");
    assert_eq!(status, "RUNNING");
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "the pid is one of the host"
    );
    let listed = c.ctr(&["tasks", "ps", "a"]);
    assert!(listed.exits(0).text().contains(&pid.to_string()), "{}", listed.text());
    c.ctr(&["tasks", "pause", "a"]).exits(0);
    c.until("a", "PAUSED");
    c.ctr(&["tasks", "resume", "a"]).exits(0);
    c.until("a", "RUNNING");
    assert_ne!(c.ctr(&["tasks", "delete", "a"]).code, 0, "it runs");
    command::until("it has a handler", || {
        c.ctr(&["tasks", "exec", "--exec-id", "e", "a", "cat", "/tmp/up"]).code == 0
    });
    c.ctr(&["tasks", "kill", "-s", "TERM", "a"]).exits(0);
    c.until("a", "STOPPED");
    deleted(c, "a", 7);
    gone(c, shim, &socket);
    // The container is still there for another task.
    c.ctr(&["tasks", "start", "--detach", "a"]).exits(0);
    c.until("a", "RUNNING");
    let (shim, socket) = (c.shim("a"), c.socket("a"));
    c.ctr(&["tasks", "kill", "-s", "KILL", "a"]).exits(0);
    c.until("a", "STOPPED");
    deleted(c, "a", 137);
    gone(c, shim, &socket);
}

fn exec(c: &Containerd<'_>, _: &World) {
    c.run(&["-d"], "a", "sleep 1000").exits(0);
    let exec = |id: &str, script: &str| c.ctr(&["tasks", "exec", "--exec-id", id, "a", "sh", "-c", script]);
    let done = exec("one", "echo out; echo err >&2; exit 5");
    assert_eq!((done.exits(5).text().as_str(), done.stderr.trim()), ("out", "err"));
    // An id is free again when its process has gone.
    exec("one", "exit 0").exits(0);
    let input = command::run(
        &mut c.command(&["tasks", "exec", "--exec-id", "in", "a", "head", "-c", "5"]),
        b"12345678",
    );
    assert_eq!(input.exits(0).text(), "12345");
    let missing = c.ctr(&["tasks", "exec", "--exec-id", "m", "a", "nonsense"]);
    assert_ne!(missing.code, 0);
    assert!(
        missing.stderr.contains("executable file not found in $PATH"),
        "{}",
        missing.stderr
    );
    let workers: Vec<_> = (0..4)
        .map(|number| {
            let id = format!("many-{number}");
            let mut command = c.command(&["tasks", "exec", "--exec-id", &id, "a", "sh", "-c", "sleep 1; exit 9"]);
            command.stdin(Stdio::null()).spawn().expect("start ctr")
        })
        .collect();
    for mut worker in workers {
        assert_eq!(command::end(&mut worker), 9);
    }
    let mut long = c.command(&["tasks", "exec", "--exec-id", "long", "a", "sleep", "1000"]);
    let mut long = long.stdin(Stdio::null()).spawn().expect("start ctr");
    command::until("it can be killed", || {
        c.ctr(&["tasks", "kill", "--exec-id", "long", "-s", "KILL", "a"]).code == 0
    });
    assert_eq!(command::end(&mut long), 137);
}

/// `ctr events`, from when it hears until it is dropped.
struct Listener {
    child: Child,
    log: PathBuf,
}

impl Listener {
    fn new(c: &Containerd<'_>, w: &World) -> Listener {
        let log = w.dir().join("events");
        let file = fs::File::create(&log).expect("make a file");
        let child = c.command(&["events"]).stdout(file).spawn().expect("start ctr");
        let listener = Listener { child, log };
        command::until("somebody listens", || {
            c.ctr(&["content", "ls"]);
            c.ctr(&["containers", "create", IMAGE, "probe"]);
            c.ctr(&["containers", "delete", "probe"]);
            fs::metadata(&listener.log).is_ok_and(|file| file.len() > 0)
        });
        listener
    }

    /// The topics of tasks that it has heard of.
    fn topics(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let words = text
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        let tasks = words.filter(|word| word.starts_with("/tasks/"));
        tasks.map(str::to_owned).collect()
    }

    #[track_caller]
    fn until(&self, topic: &str) {
        command::until(&format!("{topic} has come after {:?}", self.topics()), || {
            self.topics().last().is_some_and(|last| last == topic)
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(c: &Containerd<'_>, w: &World) {
    let listener = Listener::new(c, w);
    c.run(&["-d"], "a", "sleep 1000").exits(0);
    c.ctr(&["tasks", "exec", "--exec-id", "e", "a", "true"]).exits(0);
    c.ctr(&["tasks", "pause", "a"]).exits(0);
    c.ctr(&["tasks", "resume", "a"]).exits(0);
    c.ctr(&["tasks", "kill", "-s", "KILL", "a"]).exits(0);
    c.until("a", "STOPPED");
    deleted(c, "a", 137);
    listener.until("/tasks/delete");
    let want = "create start exec-added exec-started exit paused resumed exit delete";
    let want: Vec<String> = want.split(' ').map(|topic| format!("/tasks/{topic}")).collect();
    assert_eq!(listener.topics(), want);
}

fn terminal(c: &Containerd<'_>, _: &World) {
    let (mut terminal, slave) = Terminal::open(30, 100);
    let size = |size: &str| format!("until [ \"$(stty size)\" = \"{size}\" ]; do sleep 0.1; done; echo sized {size}");
    let script = format!(
        "tty; {}; read line; {}; echo got $line; exit 4",
        size("30 100"),
        size("31 101")
    );
    let mut command = c.command(&c.run_words(&["--rm", "-t"], "a", &script));
    command.stdin(slave.try_clone().expect("dup"));
    command.stdout(slave.try_clone().expect("dup")).stderr(slave);
    let mut child = command.spawn().expect("start ctr");
    drop(command);
    terminal.expect("/dev/");
    terminal.expect("sized 30 100");
    terminal.resize(31, 101);
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGWINCH);
    terminal.send("word\r");
    terminal.expect("sized 31 101");
    terminal.expect("got word");
    assert_eq!(command::end(&mut child), 4);
}

fn logs(c: &Containerd<'_>, w: &World) {
    let script = "echo out; echo err >&2";
    let file = w.dir().join("logs/a");
    let uri = format!("file://{}", file.display());
    c.run(&["-d", "--log-uri", &uri], "a", script).exits(0);
    c.until("a", "STOPPED");
    let mut lines: Vec<String> = fs::read_to_string(&file)
        .expect("the log")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    let program = w.dir().join("logger");
    let text = "#!/bin/sh\necho $CONTAINER_ID $@ > $1.args\nexec 5>&-\ncat <&4 > $1.err &\ncat <&3 > $1.out\nwait\n";
    fs::write(&program, text).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).expect("let it run");
    let target = w.dir().join("taken");
    let uri = format!("binary://{}?{}=more", program.display(), target.display());
    c.run(&["-d", "--log-uri", &uri], "b", script).exits(0);
    c.until("b", "STOPPED");
    let taken = |name: &str| fs::read_to_string(target.with_extension(name)).unwrap_or_default();
    command::until("the program has taken all", || {
        taken("err") == "err\n" && taken("out") == "out\n"
    });
    assert_eq!(taken("args"), format!("b {} more\n", target.display()));
    c.run(&["-d", "--null-io"], "n", script).exits(0);
    c.until("n", "STOPPED");
}

fn refusals(c: &Containerd<'_>, _: &World) {
    c.run(&["-d"], "a", "sleep 1000").exits(0);
    let refuses = |args: &[&str], why: &str| {
        let outcome = c.ctr(args);
        assert_ne!(outcome.code, 0, "{args:?}");
        assert!(
            outcome.stderr.to_lowercase().contains(why),
            "{args:?}: {}",
            outcome.stderr
        );
    };
    refuses(&["tasks", "start", "a"], "exists");
    refuses(&["tasks", "resume", "a"], "");
    refuses(&["tasks", "kill", "--exec-id", "none", "a"], "not found");
    c.ctr(&["tasks", "pause", "a"]).exits(0);
    refuses(&["tasks", "exec", "--exec-id", "e", "a", "true"], "pause");
    c.ctr(&["tasks", "resume", "a"]).exits(0);
    c.ctr(&["tasks", "kill", "-s", "KILL", "a"]).exits(0);
    c.until("a", "STOPPED");
    refuses(&["tasks", "kill", "-s", "USR1", "a"], "not found");
    refuses(&["tasks", "exec", "--exec-id", "e", "a", "true"], "stopped");
    refuses(&["tasks", "pause", "a"], "");
    // Nothing of all this has disturbed it.
    deleted(c, "a", 137);
}

fn limits(c: &Containerd<'_>, w: &World) {
    let listener = Listener::new(c, w);
    let eater = "tail /dev/zero";
    let killed = c.run(&["--rm", "--memory-limit", "30000000"], "a", eater);
    killed.exits(137);
    c.run(&["-d", "--memory-limit", "50000000"], "b", "sleep 1000").exits(0);
    let metrics = c.ctr(&["tasks", "metrics", "b"]);
    let text = metrics.exits(0).text();
    // On hosts with control groups of v1 and of v2.
    let limit = text
        .lines()
        .find(|line| line.contains("memory.limit_in_bytes") || line.contains("memory.usage_limit"));
    let limit = limit
        .and_then(|line| line.split_whitespace().last())
        .and_then(|number| number.parse::<u64>().ok());
    assert!(limit.is_some_and(|limit| limit.abs_diff(50_000_000) < 65_536), "{text}");
    // Whether the kernel tells the reference's shim depends on the hierarchy.
    if w.runtime == Runtime::Ours {
        command::until("containerd is told of the kill", || {
            listener.topics().iter().any(|topic| topic == "/tasks/oom")
        });
    }
}

fn restart(c: &Containerd<'_>, _: &World) {
    c.run(&["-d"], "a", "sleep 1000").exits(0);
    c.run(&["-d"], "b", "sleep 3; exit 6").exits(0);
    c.restart();
    assert_eq!(c.task("a").expect("it is still there").1, "RUNNING");
    c.ctr(&["tasks", "exec", "--exec-id", "e", "a", "sh", "-c", "exit 8"])
        .exits(8);
    c.until("b", "STOPPED");
    deleted(c, "b", 6);
    let (shim, socket) = (c.shim("a"), c.socket("a"));
    c.ctr(&["tasks", "kill", "-s", "KILL", "a"]).exits(0);
    c.until("a", "STOPPED");
    deleted(c, "a", 137);
    gone(c, shim, &socket);
}

fn killed(c: &Containerd<'_>, w: &World) {
    c.run(&["-d"], "a", "sleep 1000").exits(0);
    let (shim, (pid, _)) = (c.shim("a"), c.task("a").expect("it is listed"));
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill the shim");
    command::until("containerd has noticed", || c.task("a").is_none());
    command::until("the process has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    if w.runtime == Runtime::Ours {
        command::until("nothing is left", || {
            let left = leak::left(w)
                .into_iter()
                .filter(|line| line.contains("kata monitor") || line.contains("qemu"));
            left.count() == 0
        });
    }
    // The container can be started again.
    c.ctr(&["tasks", "start", "--detach", "a"]).exits(0);
    c.until("a", "RUNNING");
}

/// As Kubernetes' plugin of containerd makes them.
fn pod(c: &Containerd<'_>, w: &World) {
    let name = w.id("net");
    let netns = Netns::add(&name);
    let network = format!("network:/run/netns/{name}");
    let make = |id: &str, kind: &str, script: &str| {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let options = ["-d", "--with-ns", &network, "--annotation", &kind];
        let options = [&options[..], &["--annotation", "io.kubernetes.cri.sandbox-id=pod"]].concat();
        c.run(&options, id, script).exits(0);
    };
    make("pod", "sandbox", "sleep 1000");
    let (shim, socket) = (c.shim("pod"), c.socket("pod"));
    make("a", "container", "while :; do echo pong | nc -l -p 80 127.0.0.1; done");
    make("b", "container", "sleep 1000");
    assert_eq!((c.shim("a"), c.socket("a")), (shim, socket.clone()), "one shim");
    if w.runtime == Runtime::Ours {
        let monitors = leak::left(w).into_iter().filter(|line| line.contains("kata monitor"));
        assert_eq!(monitors.count(), 1, "one machine");
    }
    let ask = [
        "tasks",
        "exec",
        "--exec-id",
        "ask",
        "b",
        "sh",
        "-c",
        "nc 127.0.0.1 80 < /dev/null",
    ];
    command::until("they share a network", || c.ctr(&ask).text() == "pong");
    for id in ["a", "b"] {
        c.ctr(&["tasks", "kill", "-s", "KILL", id]).exits(0);
        c.until(id, "STOPPED");
        deleted(c, id, 137);
        assert_eq!(c.task("pod").expect("the pod lives on").1, "RUNNING");
    }
    // One that was restarted.
    c.ctr(&["tasks", "start", "--detach", "b"]).exits(0);
    c.ctr(&["tasks", "exec", "--exec-id", "e", "b", "sh", "-c", "exit 4"])
        .exits(4);
    for id in ["b", "pod"] {
        c.ctr(&["tasks", "kill", "-s", "KILL", id]).exits(0);
        c.until(id, "STOPPED");
        deleted(c, id, 137);
    }
    gone(c, shim, &socket);
    drop(netns);
}

/// A network namespace with loopback.
pub struct Netns(String);

impl Netns {
    pub fn add(name: &str) -> Netns {
        let ip = |args: &[&str]| {
            command::run(std::process::Command::new("ip").args(args), b"")
                .exits(0)
                .code
        };
        ip(&["netns", "add", name]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        Netns(name.to_owned())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = command::run(std::process::Command::new("ip").args(["netns", "delete", &self.0]), b"");
    }
}
