// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with Podman every day, with runc first and then with ours: the same commands, the same answers.

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::podman::Podman;
use vm_tests::suite::Suite;
use vm_tests::{Runtime, command};

use crate::everyday::{self, Start};

pub fn cases() -> Vec<Trial> {
    Suite::ALL.into_iter().flat_map(group).collect()
}

fn group(suite: Suite) -> Vec<Trial> {
    let start: Start = |w, suite| Ok(Box::new(Podman::new(w, suite)?));
    let case = |case: &str, work| everyday::case("podman", suite, case, start, work);
    vec![
        case("run_and_its_options", everyday::run),
        case("a_container_from_start_to_end", everyday::life),
        case("volumes_and_copies", everyday::files),
        case("networks_and_ports", everyday::network),
        case("many_at_once", many),
        case("top_shows_the_containers_processes", top),
        case("pods", pods),
        case("networks_of_another", of_another),
    ]
}

fn many(podman: &dyn Engine, seen: &mut Behaviours<'_>) {
    let commands: Vec<_> = (0..30)
        .map(|n| {
            let mut command = podman.command();
            command.args(["run", "--rm", "--network", "none", IMAGE, "echo", &n.to_string()]);
            command
        })
        .collect();
    // The last one waits for its turn behind all others.
    let limit = command::deadline() * 3;
    seen.see("thirty at once", || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = commands
                .into_iter()
                .map(|mut command| scope.spawn(move || command::run_within(&mut command, b"", limit)))
                .collect();
            for (n, thread) in threads.into_iter().enumerate() {
                let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                assert_eq!(outcome.exits(0).text(), n.to_string());
            }
        });
    });
}

/// `podman top` without arguments of ps looks for itself, in the mount namespace of the container's pid.
fn top(podman: &dyn Engine, seen: &mut Behaviours<'_>) {
    seen.see("top's own columns", || columns(podman));
    seen.see("pod top: all containers", || of_all(podman));
}

/// `podman pod top` takes containers for one whose pids are in one pid namespace.
fn of_all(podman: &dyn Engine) {
    let joins: &[&str] = &["run", "--detach", "--pod", "p"];
    for (shared, inits) in [("net,ipc,uts", 3), ("net,pid", 1)] {
        make_pod(podman, &["--share", shared]);
        does(podman, &[joins, &[IMAGE, "sh", "-c", "sleep 1001 & wait"]].concat());
        does(podman, &[joins, &[IMAGE, "sleep", "1002"]].concat());
        let table = || -> Vec<(String, String)> {
            let text = does(podman, &["pod", "top", "p", "pid", "args"]);
            let lines = text.lines().skip(1).filter_map(|line| line.split_once(' '));
            let mut table: Vec<_> = lines
                .map(|(pid, args)| (args.trim().to_owned(), pid.to_owned()))
                .collect();
            table.sort();
            table
        };
        let wanted = ["sh -c sleep 1001 & wait", "sleep 10000", "sleep 1001", "sleep 1002"];
        command::until("each process is listed once", || {
            let mut found: Vec<String> = table().into_iter().map(|(args, _)| args).collect();
            found.sort_by_key(|args| wanted.iter().position(|wanted| wanted == args));
            found == wanted
        });
        let first = table().into_iter().filter(|(_, pid)| pid == "1").count();
        assert_eq!(first, inits, "--share {shared}: {:?}", table());
        does(podman, &["pod", "rm", "--force", "--time", "0", "p"]);
    }
}

fn columns(podman: &dyn Engine) {
    let run: &[&str] = &["run", "--detach", "--network", "none", "--name"];
    let start = |name: &str, options: &[&str], script: &str| {
        let args = [run, &[name], options, &[IMAGE, "sh", "-c", script]].concat();
        podman.run(&args).exits(0);
    };
    // Each line as words.
    let table = |args: &[&str]| -> Vec<Vec<String>> {
        let text = podman.run(&[&["top"], args].concat()).exits(0).text();
        let lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned));
        lines.map(Iterator::collect).collect()
    };
    let users = "su user -s /bin/sh -c 'exec sleep 2000' & sleep 1000 & wait";
    start("c", &[], users);
    command::until("all processes run their programs", || {
        let comms = table(&["c", "args"]);
        comms.contains(&["sleep", "2000"].map(str::to_owned).to_vec())
            && comms.contains(&["sleep", "1000"].map(str::to_owned).to_vec())
    });

    let default = table(&["c"]);
    assert_eq!(default[0].join(" "), "USER PID PPID %CPU ELAPSED TTY TIME COMMAND");
    let line = |end: &str| {
        let found = default.iter().find(|line| line.join(" ").ends_with(end));
        found.unwrap_or_else(|| panic!("{end:?} is in {default:?}"))
    };
    assert_eq!(default.len(), 4, "{default:?}");
    assert_eq!(line("wait")[..3], ["root", "1", "0"]);
    for (user, end) in [("user", "sleep 2000"), ("root", "sleep 1000")] {
        let line = line(end);
        assert_eq!(
            (line[0].as_str(), line[2].as_str(), line[5].as_str()),
            (user, "1", "?"),
            "{line:?}"
        );
        // The pid is the one that the container knows.
        let inside = podman.run(&["exec", "c", "cat", &format!("/proc/{}/cmdline", line[1])]);
        assert_eq!(inside.exits(0).text().replace('\0', " ").trim_end(), end);
        // Started after the boot and before now.
        assert!(line[4].ends_with('s') && !line[4].starts_with('-'), "{line:?}");
    }

    let explicit = table(&[
        "c", "user", "pid", "ppid", "pcpu", "etime", "tty", "time", "comm", "state", "pgid", "nice", "vsz", "rss",
        "group", "capeff", "seccomp", "args",
    ]);
    assert_eq!(explicit.len(), 4, "{explicit:?}");
    let user = explicit
        .iter()
        .find(|line| line[0] == "user")
        .expect("the user's process is listed");
    assert_eq!((user[13].as_str(), user[15].as_str()), ("user", "filter"), "{user:?}");
    assert_eq!(user[14], "none", "{user:?}");
    assert!(["S", "R", "D"].contains(&user[8].as_str()), "{user:?}");
    // Pids of the host: those of a machine's processes are none.
    let host = table(&["c", "pid", "hpid"]);
    assert_eq!(host[1][1] == "?", podman.world().runtime == Runtime::Ours, "{host:?}");

    std::thread::scope(|scope| {
        let wait = "until test -e /tmp/seen; do sleep 0.1; done";
        let mut waiting = podman.command();
        waiting.args(["exec", "c", "sh", "-c", wait]);
        let joined = scope.spawn(move || command::run(&mut waiting, b"").code);
        command::until("a process that joined is listed", || {
            let table = table(&["c", "ppid", "args"]);
            table.iter().any(|line| line[0] == "0" && line.join(" ").contains(wait))
        });
        podman.run(&["exec", "c", "touch", "/tmp/seen"]).exits(0);
        assert_eq!(joined.join().expect("it runs"), 0);
    });

    start("t", &["--tty"], "sleep 100 & wait");
    command::until("the terminal is listed", || {
        table(&["t", "pid", "tty"]).contains(&["1", "pts/0"].map(str::to_owned).to_vec())
    });
}

fn pods(podman: &dyn Engine, seen: &mut Behaviours<'_>) {
    seen.see("pods: create, run, exec, stats, stop, start, restart, rm", || {
        pod(podman);
    });
}

fn of_another(podman: &dyn Engine, seen: &mut Behaviours<'_>) {
    seen.see("--network, --pid, --ipc container:NAME", || network_of(podman));
}

#[track_caller]
fn does(podman: &dyn Engine, args: &[&str]) -> String {
    let outcome = podman.run(args);
    assert_eq!(outcome.code, 0, "podman {}: {}", args.join(" "), outcome.stderr);
    outcome.text()
}

/// A pod's first container runs a program of the image: the one that Podman takes by itself is not installed everywhere.
fn make_pod(podman: &dyn Engine, options: &[&str]) {
    let infra = [
        "pod",
        "create",
        "--infra-image",
        IMAGE,
        "--infra-command",
        "sleep 10000",
        "--name",
        "p",
    ];
    does(podman, &[&infra[..], options].concat());
}

fn pod(podman: &dyn Engine) {
    make_pod(podman, &["--publish", "18081:81", "--hostname", "podded"]);
    let web = "mkdir -p /w; echo web > /w/name; exec httpd -f -p 81 -h /w";
    does(
        podman,
        &["run", "--detach", "--pod", "p", "--name", "web", IMAGE, "sh", "-c", web],
    );
    does(
        podman,
        &[
            "run", "--detach", "--pod", "p", "--name", "peer", IMAGE, "sleep", "10000",
        ],
    );
    let fetch = "for i in $(seq 100); do busybox wget -qO- http://127.0.0.1:81/name && exit; sleep 0.1; done; exit 1";
    for _ in 0..2 {
        assert_eq!(does(podman, &["exec", "peer", "sh", "-c", fetch]), "web");
        let outside = "busybox wget -qO- http://127.0.0.1:18081/name";
        let outcome = podman.inside(&["sh", "-c", outside]);
        assert_eq!(outcome.text(), "web", "the published port: {}", outcome.stderr);
        assert_eq!(does(podman, &["exec", "web", "hostname"]), "podded");
        assert_eq!(does(podman, &["exec", "peer", "hostname"]), "podded");
        // Memory that is shared by name, and a queue.
        does(podman, &["exec", "web", "sh", "-c", "echo through > /dev/shm/note"]);
        assert_eq!(does(podman, &["exec", "peer", "cat", "/dev/shm/note"]), "through");
        let ipc = ["web", "peer"].map(|name| does(podman, &["exec", name, "readlink", "/proc/self/ns/ipc"]));
        assert_eq!(ipc[0], ipc[1]);
        let stats = does(
            podman,
            &[
                "pod",
                "stats",
                "--no-stream",
                "--format",
                "{{.Name}} {{.MemUsageBytes}}",
                "p",
            ],
        );
        assert!(stats.contains("web") && stats.contains("peer"), "{stats}");
        assert_eq!(
            does(
                podman,
                &["pod", "ps", "--format", "{{.Status}} {{.NumberOfContainers}}"]
            ),
            "Running 3"
        );
        does(podman, &["pod", "stop", "--time", "1", "p"]);
        assert_eq!(does(podman, &["pod", "ps", "--format", "{{.Status}}"]), "Exited");
        does(podman, &["pod", "start", "p"]);
    }
    // One of them comes and goes while the others live.
    does(podman, &["restart", "--time", "0", "peer"]);
    assert_eq!(does(podman, &["exec", "peer", "sh", "-c", fetch]), "web");
    does(podman, &["rm", "--force", "--time", "0", "web"]);
    assert_eq!(does(podman, &["exec", "peer", "echo", "lives"]), "lives");
    does(podman, &["pod", "rm", "--force", "--time", "0", "p"]);
    make_pod(podman, &["--share", "net,pid,ipc,uts"]);
    does(
        podman,
        &["run", "--detach", "--pod", "p", "--name", "web", IMAGE, "sleep", "4242"],
    );
    let seen = does(podman, &["run", "--rm", "--pod", "p", IMAGE, "ps"]);
    assert!(seen.contains("sleep 10000") && seen.contains("sleep 4242"), "{seen}");
    does(podman, &["pod", "rm", "--force", "--time", "0", "p"]);
}

fn network_of(podman: &dyn Engine) {
    let web = "mkdir -p /w; echo web > /w/name; exec httpd -f -p 81 -h /w";
    does(podman, &["run", "--detach", "--name", "web", IMAGE, "sh", "-c", web]);
    let fetch = "for i in $(seq 100); do busybox wget -qO- http://127.0.0.1:81/name && exit; sleep 0.1; done; exit 1";
    let with = ["run", "--rm", "--network", "container:web"];
    assert_eq!(does(podman, &[&with[..], &[IMAGE, "sh", "-c", fetch]].concat()), "web");
    let seen = does(
        podman,
        &[
            &with[..],
            &["--pid", "container:web", "--ipc", "container:web", IMAGE, "ps"],
        ]
        .concat(),
    );
    assert!(seen.contains("httpd"), "{seen}");
    does(podman, &["rm", "--force", "--time", "0", "web"]);
}
