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

fn layout(w: &World) {
    let layout = w.dir().join("layout");
    let run = |args: &[&str]| {
        let done = std::process::Command::new("umoci")
            .args(args)
            .output()
            .expect("umoci is installed");
        assert!(
            done.status.success(),
            "umoci {args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let path = layout.to_str().expect("UTF-8");
    let image = format!("{path}:box");
    run(&["init", "--layout", path]);
    run(&["new", "--image", &image]);
    let rootfs = w.bundle("image", "true").rootfs();
    run(&["insert", "--image", &image, rootfs.to_str().expect("UTF-8"), "/"]);
    run(&[
        "config",
        "--image",
        &image,
        "--config.cmd",
        "sh",
        "--config.cmd",
        "-c",
        "--config.cmd",
        "echo from the image in $PWD",
        "--config.workingdir",
        "/tmp",
    ]);
    let name = format!("oci:{image}");
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
