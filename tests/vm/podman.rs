// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with Podman every day, with runc first and then with ours: the same commands, the same answers.

use std::fs;

use libtest_mimic::Trial;
use vm_tests::podman::{IMAGE, Podman};
use vm_tests::{Runtime, Verdict, World, both, command};

pub fn cases() -> Vec<Trial> {
    vec![
        case("run_and_its_options", run),
        case("a_container_from_start_to_end", life),
        case("volumes_and_copies", files),
        case("networks_and_ports", network),
        case("many_at_once", many),
        case("top_shows_the_containers_processes", top),
    ]
}

fn case(name: &str, work: fn(&Podman<'_>, &World)) -> Trial {
    both(&format!("podman::{name}"), move |w| {
        let Some(podman) = Podman::new(w) else {
            return Verdict::Skipped("podman is not installed".into());
        };
        work(&podman, w);
        Verdict::Held
    })
}

/// A step: what podman is told, its exit code, and what its output ends with.
type Step<'a> = (&'a [&'a str], i32, &'a str);

#[track_caller]
fn steps(podman: &Podman<'_>, steps: &[Step<'_>]) {
    for (args, code, end) in steps {
        let outcome = podman.run(args);
        let said = format!("podman {}: {} {}", args.join(" "), outcome.text(), outcome.stderr);
        assert_eq!(outcome.code, *code, "{said}");
        assert!(outcome.text().ends_with(end), "{end:?} expected of {said}");
    }
}

fn run(podman: &Podman<'_>, w: &World) {
    let kernel = command::run(std::process::Command::new("uname").arg("-r"), b"").text();
    let seen = podman.run(&["run", "--rm", "--network", "none", IMAGE, "uname", "-r"]);
    assert_eq!(seen.exits(0).text() == kernel, w.runtime == Runtime::Reference);
    let no = ["run", "--rm", "--network", "none"];
    let with = |options: &'static [&'static str]| [&no[..], options].concat();
    steps(
        podman,
        &[
            (&with(&[IMAGE, "sh", "-c", "exit 42"]), 42, ""),
            (&with(&[IMAGE, "/nosuch"]), 127, ""),
            (&with(&["--user", "1000:100", IMAGE, "id", "-u"]), 0, "1000"),
            (
                &with(&[
                    "--read-only",
                    "--tmpfs",
                    "/t",
                    "--user",
                    "7",
                    IMAGE,
                    "sh",
                    "-c",
                    "echo a >/t/a; touch /a || cat /t/a",
                ]),
                0,
                "a",
            ),
            (
                &with(&[
                    "--cap-drop",
                    "all",
                    "--cap-add",
                    "chown",
                    IMAGE,
                    "grep",
                    "CapEff",
                    "/proc/self/status",
                ]),
                0,
                "0000000000000001",
            ),
            (
                &with(&[
                    "--ulimit",
                    "nofile=99:99",
                    "--ulimit",
                    "nproc=999:999",
                    IMAGE,
                    "sh",
                    "-c",
                    "ulimit -n",
                ]),
                0,
                "99",
            ),
            (
                &with(&[
                    "--hostname",
                    "other",
                    "--env",
                    "A=b",
                    IMAGE,
                    "sh",
                    "-c",
                    "hostname; echo $A",
                ]),
                0,
                "other\nb",
            ),
            (
                &with(&[
                    "--sysctl",
                    "net.ipv4.ip_forward=1",
                    IMAGE,
                    "cat",
                    "/proc/sys/net/ipv4/ip_forward",
                ]),
                0,
                "1",
            ),
            (
                &with(&[
                    "--workdir",
                    "/tmp",
                    "--security-opt",
                    "seccomp=unconfined",
                    IMAGE,
                    "pwd",
                ]),
                0,
                "/tmp",
            ),
            (
                &with(&["--add-host", "a:1.2.3.4", IMAGE, "grep", "-c", "1.2.3.4", "/etc/hosts"]),
                0,
                "1",
            ),
            (&with(&["--memory", "200m", "--pids-limit", "50", IMAGE, "true"]), 0, ""),
        ],
    );
}

fn life(podman: &Podman<'_>, _: &World) {
    let script = "trap 'echo caught' USR1; trap 'exit 5' TERM; echo begun; while true; do sleep 0.1; done";
    steps(
        podman,
        &[
            (
                &[
                    "run",
                    "--detach",
                    "--name",
                    "c",
                    "--network",
                    "none",
                    "--health-cmd",
                    "test -e /tmp",
                    IMAGE,
                    "sh",
                    "-c",
                    script,
                ],
                0,
                "",
            ),
            (&["exec", "--env", "A=b", "c", "sh", "-c", "echo $A"], 0, "b"),
            (&["exec", "c", "nosuch"], 127, ""),
            (&["exec", "c", "sh", "-c", "exit 3"], 3, ""),
            (&["healthcheck", "run", "c"], 0, ""),
            (&["inspect", "--format", "{{.State.Status}}", "c"], 0, "running"),
            (&["pause", "c"], 0, ""),
            (&["inspect", "--format", "{{.State.Status}}", "c"], 0, "paused"),
            (&["unpause", "c"], 0, ""),
            (&["update", "--memory", "300m", "c"], 0, ""),
            (&["kill", "--signal", "USR1", "c"], 0, ""),
        ],
    );
    command::until("the signal is caught", || {
        podman.run(&["logs", "c"]).text() == "begun\ncaught"
    });
    steps(
        podman,
        &[
            (&["stop", "--time", "20", "c"], 0, "c"),
            (&["inspect", "--format", "{{.State.ExitCode}}", "c"], 0, "5"),
            (&["start", "c"], 0, "c"),
            (&["rm", "--force", "--time", "0", "c"], 0, ""),
            (&["ps", "--all", "--quiet"], 0, ""),
            (
                &[
                    "run",
                    "--name",
                    "r",
                    "--network",
                    "none",
                    "--restart",
                    "on-failure:2",
                    "--detach",
                    IMAGE,
                    "sh",
                    "-c",
                    "exit 3",
                ],
                0,
                "",
            ),
        ],
    );
    command::until("it was started again twice", || {
        let state = podman.run(&["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "r"]);
        state.text() == "2 exited"
    });
}

fn files(podman: &Podman<'_>, w: &World) {
    let data = w.dir().join("data");
    fs::create_dir(&data).expect("make a directory");
    fs::write(data.join("f"), "host\n").expect("write");
    let read_only = format!("{}:/v:ro", data.display());
    let back = w.dir().join("back").display().to_string();
    let file = data.join("f").display().to_string();
    steps(
        podman,
        &[
            (
                &[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "-v",
                    &read_only,
                    "-v",
                    "named:/n",
                    IMAGE,
                    "sh",
                    "-c",
                    "cp /v/f /n/g; touch /v/x || cat /n/g",
                ],
                0,
                "host",
            ),
            (
                &[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "-v",
                    "named:/n",
                    IMAGE,
                    "cat",
                    "/n/g",
                ],
                0,
                "host",
            ),
            (
                &[
                    "run",
                    "--detach",
                    "--name",
                    "c",
                    "--network",
                    "none",
                    IMAGE,
                    "sleep",
                    "1000",
                ],
                0,
                "",
            ),
            (&["cp", &file, "c:/tmp/in"], 0, ""),
            (&["exec", "c", "cat", "/tmp/in"], 0, "host"),
            (&["exec", "c", "sh", "-c", "echo guest >/tmp/out"], 0, ""),
            (&["cp", "c:/tmp/out", &back], 0, ""),
            (&["commit", "--quiet", "c", "localhost/kept"], 0, ""),
            (
                &["run", "--rm", "--network", "none", "localhost/kept", "cat", "/tmp/out"],
                0,
                "guest",
            ),
            (&["stop", "--time", "0", "c"], 0, ""),
            (&["cp", "c:/tmp/in", &back], 0, ""),
            (&["volume", "rm", "--force", "named"], 0, ""),
        ],
    );
    assert_eq!(fs::read_to_string(back).expect("it was copied"), "host\n");
}

fn network(podman: &Podman<'_>, _: &World) {
    let serve = "mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w";
    let server: &[&str] = &[
        "run",
        "--detach",
        "--name",
        "s",
        "--publish",
        "18080:80",
        IMAGE,
        "sh",
        "-c",
        serve,
    ];
    steps(podman, &[(server, 0, "")]);
    let address = podman
        .run(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "s"])
        .text();
    let ask =
        |host: &str, port: u16| format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc {host} {port} | tail -n 1");
    let there = ask(&address, 80);
    command::until("the server answers another container", || {
        podman.run(&["run", "--rm", IMAGE, "sh", "-c", &there]).text() == "page"
    });
    let published = podman.inside(&["sh", "-c", &ask("127.0.0.1", 18080)]);
    assert_eq!(published.text(), "page", "{}", published.stderr);
}

fn many(podman: &Podman<'_>, _: &World) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|n| {
                scope.spawn(move || podman.run(&["run", "--rm", "--network", "none", IMAGE, "echo", &n.to_string()]))
            })
            .collect();
        for (n, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().expect("it runs").exits(0).text(), n.to_string());
        }
    });
}

/// `podman top` without arguments of ps looks for itself, in the mount namespace of the container's pid.
fn top(podman: &Podman<'_>, w: &World) {
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
    assert_eq!(host[1][1] == "?", w.runtime == Runtime::Ours, "{host:?}");

    std::thread::scope(|scope| {
        let wait = "until test -e /tmp/seen; do sleep 0.1; done";
        let joined = scope.spawn(move || podman.run(&["exec", "c", "sh", "-c", wait]).code);
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
