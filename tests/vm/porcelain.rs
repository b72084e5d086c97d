// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata run` and its companions, as a person types them.

use std::process::Stdio;

use libtest_mimic::Trial;
use vm_tests::terminal::Terminal;
use vm_tests::{Outcome, World, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("porcelain::exit_code", |w| {
            kata(w, &["run", "--rm", &rootfs(w), "sh", "-c", "exit 42"], b"").exits(42);
        }),
        ours("porcelain::input_is_piped_through", |w| {
            let outcome = kata(w, &["run", "--rm", "-i", &rootfs(w), "cat"], b"through\n");
            assert_eq!(outcome.exits(0).text(), "through");
        }),
        ours("porcelain::options_reach_the_container", options),
        ours("porcelain::a_detached_life", detached),
        ours("porcelain::an_oci_layout", layout),
        ours("porcelain::a_terminal", terminal),
        ours("porcelain::missing_program_gives_127", |w| {
            kata(w, &["run", "--rm", &rootfs(w), "no-such-program"], b"").exits(127);
        }),
        ours("porcelain::a_name_is_taken_once", |w| {
            kata(w, &["run", "-d", "--name", "one", &rootfs(w), "sleep", "1000"], b"").exits(0);
            kata(w, &["run", "-d", "--name", "one", &rootfs(w), "sleep", "1000"], b"")
                .exits(125)
                .refuses(&["one"]);
            kata(w, &["rm", "-f", "one"], b"").exits(0);
        }),
        ours("porcelain::a_detached_container_removes_itself", |w| {
            let image = rootfs(w);
            kata(
                w,
                &["run", "-d", "--rm", "--name", "brief", &image, "sleep", "0.2"],
                b"",
            )
            .exits(0);
            command::until("nothing is known of it", || {
                kata(w, &["ps", "-aq"], b"").exits(0).text().is_empty()
            });
        }),
        ours("porcelain::what_cannot_be_is_refused_in_a_line", refusals),
        ours("porcelain::users_and_roots_of_an_image", users),
        ours("porcelain::logs_are_followed_to_the_end", |w| {
            let script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; exit 9";
            kata(
                w,
                &["run", "-d", "--name", "talker", &rootfs(w), "sh", "-c", script],
                b"",
            )
            .exits(0);
            let followed = kata(w, &["logs", "-f", "talker"], b"").exits(0).text();
            assert_eq!(followed, "line 1\nline 2\nline 3");
            assert_eq!(
                kata(w, &["logs", "--tail", "1", "talker"], b"").exits(0).text(),
                "line 3"
            );
            command::until("its exit code is shown", || {
                kata(w, &["ps", "-a"], b"").text().contains("Exited (9)")
            });
            kata(w, &["rm", "talker"], b"").exits(0);
        }),
        ours("porcelain::ctrl_c_leaves_nothing", interrupted),
        ours("porcelain::a_killed_creator_leaves_what_rm_removes", |w| {
            let mut child = w.kata();
            child.args(["run", "--rm", "--name", "orphan", &rootfs(w), "sleep", "1000"]);
            let mut child = child.stdin(Stdio::null()).spawn().expect("spawn");
            command::until("it is known", || kata(w, &["ps", "-a"], b"").text().contains("orphan"));
            child.kill().expect("kill");
            command::end(&mut child);
            command::until("it is seen to be dead", || {
                kata(w, &["ps", "-a"], b"").text().contains("Dead")
            });
            kata(w, &["rm", "-f", "orphan"], b"").exits(0);
            assert_eq!(kata(w, &["ps", "-aq"], b"").exits(0).text(), "");
        }),
        ours("porcelain::doctor", |w| {
            let outcome = kata(w, &["doctor", "--json"], b"");
            let facts: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
            assert!(facts.to_string().contains("kvm"), "{facts}");
            assert!(!kata(w, &["doctor"], b"").text().is_empty());
        }),
    ]
}

#[track_caller]
fn kata(w: &World, args: &[&str], input: &[u8]) -> Outcome {
    command::run(w.kata().args(args), input)
}

fn rootfs(w: &World) -> String {
    format!("rootfs:{}", w.bundle("image", "true").rootfs().display())
}

fn options(w: &World) {
    let data = w.dir().join("data");
    std::fs::create_dir_all(&data).expect("make");
    std::fs::write(data.join("f"), "volume\n").expect("write");
    let volume = format!("{}:/data:ro", data.display());
    let script = "echo $A; pwd; id -u; cat /data/f; touch /data/x 2>/dev/null || echo ro; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let image = rootfs(w);
    let args = [
        "run",
        "--rm",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "--user",
        "1000:1000",
        "-v",
        &volume,
        "--memory",
        "100m",
        "--cpus",
        "0.5",
    ];
    let args: Vec<&str> = args
        .into_iter()
        .chain(["--network", "none", &image, "sh", "-c", script])
        .collect();
    let seen = kata(w, &args, b"").exits(0).text();
    assert_eq!(seen, "b\n/tmp\n1000\nvolume\nro\n104857600\n50000 100000");
}

fn detached(w: &World) {
    let image = rootfs(w);
    let id = kata(
        w,
        &[
            "run",
            "-d",
            "--name",
            "box",
            &image,
            "sh",
            "-c",
            "echo logged; trap 'exit 0' TERM; while :; do sleep 0.1; done",
        ],
        b"",
    );
    let id = id.exits(0).text();
    command::until("its output is in the log", || {
        kata(w, &["logs", "box"], b"").text() == "logged"
    });
    let table = kata(w, &["ps"], b"").exits(0).text();
    assert!(
        table.contains("box") && table.contains(&id[..12.min(id.len())]),
        "{table}"
    );
    assert_eq!(
        kata(w, &["exec", "box", "sh", "-c", "echo in; exit 3"], b"")
            .exits(3)
            .text(),
        "in"
    );
    assert_eq!(
        kata(w, &["exec", "-i", "box", "cat"], b"piped\n").exits(0).text(),
        "piped"
    );
    kata(w, &["rm", "box"], b"").refuses(&["box"]);
    kata(w, &["stop", "-t", "20", "box"], b"").exits(0);
    assert!(!kata(w, &["ps"], b"").text().contains("box"), "ps lists what runs");
    assert!(kata(w, &["ps", "-a"], b"").text().contains("box"), "ps -a lists all");
    assert_eq!(
        kata(w, &["logs", "box"], b"").exits(0).text(),
        "logged",
        "logs outlive the process"
    );
    kata(w, &["rm", "box"], b"").exits(0);
    kata(w, &["exec", "box", "true"], b"").refuses(&["box"]);
}

#[track_caller]
fn umoci(args: &[&str]) {
    let done = std::process::Command::new("umoci").args(args).output();
    let done = done.expect("umoci is installed");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "umoci {args:?}: {why}");
}

/// An OCI layout of the test's userland; the answer is its name.
pub fn layout_of(w: &World, name: &str) -> String {
    let layout = w.dir().join(name);
    let path = layout.to_str().expect("UTF-8");
    let image = format!("{path}:box");
    umoci(&["init", "--layout", path]);
    umoci(&["new", "--image", &image]);
    let rootfs = w.bundle("image", "true").rootfs();
    umoci(&["insert", "--image", &image, rootfs.to_str().expect("UTF-8"), "/"]);
    format!("oci:{image}")
}

fn layout(w: &World) {
    let name = layout_of(w, "layout");
    let image = name.strip_prefix("oci:").expect("a layout");
    umoci(&[
        "config",
        "--image",
        image,
        "--config.cmd",
        "sh",
        "--config.cmd",
        "-c",
        "--config.cmd",
        "echo from the image in $PWD",
        "--config.workingdir",
        "/tmp",
    ]);
    for _ in 0..2 {
        assert_eq!(
            kata(w, &["run", "--rm", &name], b"").exits(0).text(),
            "from the image in /tmp"
        );
    }
    assert_eq!(
        kata(w, &["run", "--rm", &name, "sh", "-c", "touch /new; ls /new"], b"")
            .exits(0)
            .text(),
        "/new"
    );
    kata(w, &["run", "--rm", &name, "ls", "/new"], b"").exits(1);
    assert!(kata(w, &["images"], b"").exits(0).text().contains("box"));
}

fn refusals(w: &World) {
    let image = rootfs(w);
    let cases: [(&[&str], i32, &str); 9] = [
        (&["frobnicate"], 125, "frobnicate"),
        (&["run"], 125, "image"),
        (&["run", "--no-such", &image, "true"], 125, "--no-such"),
        (&["run", "--network", "host", &image, "true"], 125, "published with -p"),
        (&["run", "--user", "nobody-here", &image, "true"], 125, "no user"),
        (
            &["run", "-v", "/x:relative", &image, "true"],
            125,
            "not an absolute path",
        ),
        (&["run", "--hypervisor", "bogus", &image, "true"], 125, "bogus"),
        (&["run", &image, "/etc/passwd"], 126, "permission denied"),
        (&["rm", "nobody"], 125, "no container nobody"),
    ];
    for (args, code, word) in cases {
        kata(w, args, b"").exits(code).refuses(&[word]);
    }
    assert_eq!(kata(w, &["ps", "-aq"], b"").exits(0).text(), "", "nothing is left");
}

fn users(w: &World) {
    let layout = layout_of(w, "users");
    let script = "id -u; id -g; cat /etc/hostname; touch /x 2>/dev/null || echo ro; echo $B; touch /t/y && echo tmp";
    let mut command = w.kata();
    command
        .env("B", "ours")
        .args(["run", "--rm", "--user", "user", "--hostname", "hal"]);
    command.args([
        "--read-only",
        "--tmpfs",
        "/t:mode=1777",
        "-e",
        "B",
        &layout,
        "sh",
        "-c",
        script,
    ]);
    let seen = command::run(&mut command, b"").exits(0).text();
    assert_eq!(seen, "1000\n1000\nhal\nro\nours\ntmp");
    // Changes are the container's own, seen by its further processes, and gone with it.
    kata(w, &["run", "-d", "--name", "box", &layout, "sleep", "1000"], b"").exits(0);
    let add = "echo late:x:7:8::/: >> /etc/passwd";
    kata(w, &["exec", "box", "sh", "-c", add], b"").exits(0);
    let late = kata(w, &["exec", "--user", "late", "box", "id", "-u"], b"");
    assert_eq!(late.exits(0).text(), "7");
    kata(w, &["rmi", &layout], b"").refuses(&["box"]);
    kata(w, &["rm", "-f", "box"], b"").exits(0);
    kata(w, &["run", "--rm", "--user", "late", &layout, "true"], b"").exits(125);
    kata(w, &["rmi", &layout], b"").exits(0);
    let layers = std::fs::read_dir(w.dir().join("images/layers"))
        .expect("the store")
        .count();
    assert_eq!(layers, 0, "nobody uses them");
}

/// SIGINT at several moments of a container's making.
fn interrupted(w: &World) {
    let image = rootfs(w);
    for pause in [50, 300, 700] {
        let mut child = w.kata();
        child.args(["run", "--name", "brief", &image, "sleep", "1000"]);
        let mut child = child.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("signal");
        // If it runs already, the signal is its process's, which as the first of its namespace does not hear it.
        std::thread::sleep(std::time::Duration::from_millis(500));
        if child.try_wait().expect("wait").is_none() {
            kata(w, &["rm", "-f", "brief"], b"").exits(0);
        }
        let code = command::end(&mut child);
        assert!(code == 130 || code == 137, "{code}");
        assert_eq!(kata(w, &["ps", "-aq"], b"").exits(0).text(), "", "after {pause} ms");
    }
}

fn terminal(w: &World) {
    let (mut terminal, stdio) = Terminal::open(30, 90);
    let stream = || Stdio::from(stdio.try_clone().expect("dup"));
    let mut plain = w.kata();
    plain.args(["run", "--rm", "-it", &rootfs(w), "sh"]);
    let mut command = std::process::Command::new("setsid");
    command
        .args(["--ctty", "--wait"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(w.dir());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut child = command
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .expect("spawn");
    terminal.send("echo size $(stty size) end\n");
    terminal.expect("size 30 90 end");
    terminal.resize(20, 70);
    command::until("the new size arrives", || {
        terminal.send("echo now $(stty size) end\n");
        terminal.expect("now $(stty size) end");
        terminal.expect("now ");
        terminal.expect(" end") == "20 70"
    });
    terminal.send("exit 6\n");
    assert_eq!(command::end(&mut child), 6);
}
