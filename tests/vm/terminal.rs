// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Terminals: through a console socket as engines use it, and in the foreground.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::terminal::Terminal;
use vm_tests::{World, both, command};

pub fn cases() -> Vec<Trial> {
    vec![
        both("terminal::console_socket", console_socket),
        both("terminal::foreground", foreground),
        both("terminal::console_size_of_the_spec", console_size),
        both("terminal::exec_with_a_terminal", exec_terminal),
    ]
}

/// What every terminal of a container must do; the shell prints `ready` first.
fn converse(terminal: &mut Terminal) {
    terminal.expect("ready");
    terminal.send("tty; stty -a | head -1\n");
    terminal.expect("/dev/");
    terminal.resize(31, 97);
    command::until("the size arrives", || {
        terminal.send("echo size $(stty size) end\n");
        // The first one is the echo of what was typed.
        terminal.expect("size $(stty size) end");
        terminal.expect("size ");
        terminal.expect(" end") == "31 97"
    });
    terminal.send("echo c$((0+0))t; cat\n");
    terminal.expect("c0t\r\n");
    terminal.send("marco\n");
    terminal.expect("marco\r\nmarco");
    terminal.send("\x03");
    terminal.expect("# ");
    terminal.send("echo int$((1+1))errupted\n");
    terminal.expect("int2errupted");
    terminal.send("exit 4\n");
}

const SHELL: &str = "PS1='$ '; echo ready; exec sh -i";

fn console_socket(w: &World) {
    let mut bundle = w.bundle("c", SHELL);
    bundle.set("/process/terminal", json!(true));
    let path = w.dir().join("console.sock");
    let listener = Terminal::socket(&path);
    let mut create = w.runtime();
    create
        .args(["create", "--bundle"])
        .arg(&bundle.path)
        .arg("--console-socket")
        .arg(&path);
    create.arg("--pid-file").arg(w.dir().join("pid")).arg(w.id("c"));
    let (outcome, mut terminal) = std::thread::scope(|scope| {
        let terminal = scope.spawn(|| Terminal::receive(&listener));
        (
            command::run(&mut create, b""),
            terminal.join().expect("a terminal comes"),
        )
    });
    outcome.exits(0);
    w.oci(&["start", &w.id("c")]).exits(0);
    converse(&mut terminal);
    w.until_status("c", "stopped");
    w.oci(&["delete", &w.id("c")]).exits(0);
}

fn spawn(w: &World, args: &[&str], stdio: &OwnedFd) -> std::process::Child {
    let stream = || Stdio::from(stdio.try_clone().expect("dup"));
    let mut command = w.runtime();
    command.args(args).stdin(stream()).stdout(stream()).stderr(stream());
    let mut wrapped = std::process::Command::new("setsid");
    wrapped
        .args(["--ctty", "--wait"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(w.dir());
    wrapped
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .expect("spawn")
}

fn foreground(w: &World) {
    let mut bundle = w.bundle("c", SHELL);
    bundle.set("/process/terminal", json!(true));
    let (mut terminal, stdio) = Terminal::open(24, 80);
    let before = nix::sys::termios::tcgetattr(&stdio).expect("the terminal's modes");
    let mut child = spawn(
        w,
        &["run", "--bundle", bundle.path.to_str().expect("UTF-8"), &w.id("c")],
        &stdio,
    );
    converse(&mut terminal);
    assert_eq!(command::end(&mut child), 4);
    let after = nix::sys::termios::tcgetattr(&stdio).expect("the terminal's modes");
    assert_eq!(before.local_flags, after.local_flags, "the terminal is as it was");
}

fn console_size(w: &World) {
    let mut bundle = w.bundle("c", "stty size; echo done");
    bundle.set("/process/terminal", json!(true));
    bundle.set("/process/consoleSize", json!({"height": 33, "width": 111}));
    let path = w.dir().join("console.sock");
    let listener = Terminal::socket(&path);
    let mut create = w.runtime();
    create
        .args(["create", "--bundle"])
        .arg(&bundle.path)
        .arg("--console-socket")
        .arg(&path)
        .arg(w.id("c"));
    let mut terminal = std::thread::scope(|scope| {
        let terminal = scope.spawn(|| Terminal::receive(&listener));
        command::run(&mut create, b"").exits(0);
        terminal.join().expect("a terminal comes")
    });
    w.oci(&["start", &w.id("c")]).exits(0);
    terminal.expect("33 111");
    w.until_status("c", "stopped");
    w.oci(&["delete", &w.id("c")]).exits(0);
}

fn exec_terminal(w: &World) {
    let bundle = w.bundle("c", "sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let (mut terminal, stdio) = Terminal::open(24, 80);
    let mut child = spawn(w, &["exec", "--tty", &w.id("c"), "sh", "-c", SHELL], &stdio);
    converse(&mut terminal);
    assert_eq!(command::end(&mut child), 4);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}
