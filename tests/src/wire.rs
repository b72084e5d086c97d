// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A network namespace as an engine prepares it for a container, and another at the far end of its cable. Both go with the value.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::{Outcome, World, command};

/// See the module.
#[derive(Debug)]
pub struct Wire {
    near: String,
    far: String,
}

impl Wire {
    /// Two namespaces without a cable yet; `name` tells the wires of a world apart.
    pub fn new(w: &World, name: &str) -> Wire {
        let wire = Wire {
            near: w.id(name),
            far: w.id(&format!("{name}-far")),
        };
        for namespace in [&wire.near, &wire.far] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        wire
    }

    /// A far end only; the near one is that of process `pid`.
    pub fn into(w: &World, name: &str, pid: i32) -> Wire {
        let wire = Wire {
            near: w.id(name),
            far: w.id(&format!("{name}-far")),
        };
        ip(&["netns", "attach", &wire.near, &pid.to_string()]);
        ip(&["netns", "add", &wire.far]);
        wire
    }

    /// As [`Wire::new`], with `eth0`: 10.77.0.2 and fd77::2 here, 10.77.0.1 and fd77::1 there.
    pub fn plugged(w: &World, name: &str) -> Wire {
        let wire = Wire::new(w, name);
        wire.plug("eth0", 77);
        wire
    }

    /// A cable from `interface` here to the same name there, with addresses of network `number`.
    pub fn plug(&self, interface: &str, number: u8) {
        // Made far away, so that it appears here all at once, as engines do it.
        let (near, far) = (&self.near, &self.far);
        ip(&[
            "-n", far, "link", "add", interface, "type", "veth", "peer", "name", "away", "netns", near,
        ]);
        self.near(&format!("link set away name {interface}"));
        for (namespace, end) in [(far, 1), (near, 2)] {
            let set = |words: &str| ip(&words_of(namespace, words));
            set(&format!(
                "addr add 10.{number}.0.{end}/24 brd 10.{number}.0.255 dev {interface}"
            ));
            set(&format!("addr add fd{number}::{end}/64 dev {interface} nodad"));
            set(&format!("link set {interface} up"));
        }
    }

    /// Pulls the cable.
    pub fn pull(&self, interface: &str) {
        self.near(&format!("link del {interface}"));
    }

    /// `ip` with these words on our side; what it prints.
    #[track_caller]
    pub fn near(&self, words: &str) -> String {
        ip(&words_of(&self.near, words))
    }

    /// As [`Wire::near`], at the far end.
    #[track_caller]
    pub fn far(&self, words: &str) -> String {
        ip(&words_of(&self.far, words))
    }

    /// Runs a command at the far end.
    #[track_caller]
    pub fn run(&self, script: &str, input: &[u8]) -> Outcome {
        command::run(
            Command::new("ip").args(["netns", "exec", &self.far, "busybox", "sh", "-c", script]),
            input,
        )
    }

    /// Starts a server at the far end.
    pub fn serve(&self, script: &str) -> Server {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.far,
            "busybox",
            "sh",
            "-c",
            &format!("exec {script}"),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Server(command.spawn().expect("start a server"))
    }

    /// Listens on our side, beside the container, as a server of the engine does.
    pub fn listen(&self, address: &str) -> TcpListener {
        let namespace = File::open(self.path()).expect("open the namespace");
        let address = address.to_owned();
        // The thread stays there, and its socket too.
        let thread = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            TcpListener::bind(address).expect("listen")
        });
        thread.join().expect("the thread")
    }

    /// For a spec.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.near)
    }

    /// The namespace at the far end.
    pub fn far_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.far)
    }

    /// Fails if a machine has left something here.
    pub fn check(&self) {
        let links = self.near("-o link");
        assert!(!links.contains(": kata"), "a tap is left: {links}");
        let output = Command::new("tc").args(["-n", &self.near, "qdisc"]).output();
        let queues = String::from_utf8_lossy(&output.expect("tc").stdout).into_owned();
        assert!(!queues.contains("ingress"), "a redirection is left: {queues}");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn words_of<'a>(namespace: &'a str, words: &'a str) -> Vec<&'a str> {
    ["-n", namespace].into_iter().chain(words.split_whitespace()).collect()
}

#[track_caller]
fn ip(words: &[&str]) -> String {
    let outcome = command::run(Command::new("ip").args(words), b"");
    outcome.exits(0).text()
}

/// Killed when dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
