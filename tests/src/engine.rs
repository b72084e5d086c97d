// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! An engine that people talk to by a command line like Docker's, with a runtime under test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::terminal::Terminal;
use crate::world::binaries;
use crate::{Outcome, Runtime, World, command};

/// The image of all containers.
pub const IMAGE: &str = "localhost/test";

/// See the module.
pub trait Engine {
    /// Its name and version.
    fn client(&self) -> &str;

    /// Where its data is.
    fn world(&self) -> &World;

    /// Its command line, without a verb.
    fn command(&self) -> Command;

    /// A command in its network namespace.
    fn inside(&self, args: &[&str]) -> Outcome;

    /// A verb, to its end.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        command::run(self.command().args(args), b"")
    }

    /// As [`Engine::run`], with `input`.
    #[track_caller]
    fn feed(&self, args: &[&str], input: &[u8]) -> Outcome {
        command::run(self.command().args(args), input)
    }

    /// A step: its exit code, and what its output ends with.
    #[track_caller]
    fn step(&self, args: &[&str], code: i32, end: &str) {
        let outcome = self.run(args);
        let said = format!("{}: {} {}", args.join(" "), outcome.text(), outcome.stderr);
        assert_eq!(outcome.code, code, "{said}");
        assert!(outcome.text().ends_with(end), "{end:?} expected of {said}");
    }

    /// One that goes on, its output in a file `output` of the world's.
    fn begin(&self, args: &[&str], output: &str) -> Going {
        let output = self.world().dir().join(output);
        let file = fs::File::create(&output).expect("create a file");
        let errors = file.try_clone().expect("dup");
        let mut command = self.command();
        command.args(args).stdin(Stdio::null()).stdout(file).stderr(errors);
        Going {
            child: command.spawn().expect("it is installed"),
            output,
        }
    }

    /// On a terminal of 30 rows and 90 columns.
    fn on_a_terminal(&self, args: &[&str]) -> (Terminal, Child) {
        let (terminal, stdio) = Terminal::open(30, 90);
        let stream = || Stdio::from(stdio.try_clone().expect("dup"));
        let plain = self.command();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(plain.get_program());
        command
            .args(plain.get_args())
            .args(args)
            .current_dir(self.world().dir());
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().expect("spawn");
        (terminal, child)
    }
}

/// A command that goes on until it is dropped.
#[derive(Debug)]
pub struct Going {
    child: Child,
    output: PathBuf,
}

impl Going {
    /// What it has printed.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The runtime of `world` as a program for engines, which pass on no environment.
pub fn runtime(world: &World) -> PathBuf {
    if world.runtime == Runtime::Reference {
        return "/usr/sbin/runc".into();
    }
    let mut script = String::from("#!/bin/sh\n");
    for name in ["KATA_GUEST_DIR", "KATA_TEMPLATE_DIR"] {
        if let Ok(value) = std::env::var(name) {
            script.push_str(&format!("export {name}='{value}'\n"));
        }
    }
    let program = fs::canonicalize(binaries().join("kata")).expect("kata is built");
    script.push_str(&format!("exec '{}' runtime \"$@\"\n", program.display()));
    let path = world.dir().join("kata-runtime");
    fs::write(&path, script).expect("write the runtime's script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

/// A tar of a busybox root, for an engine to import.
pub fn image(world: &World) -> PathBuf {
    let bundle = world.bundle("image", "true");
    let tar = world.dir().join("image.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&tar).arg(".");
    command::run(&mut pack, b"").exits(0);
    tar
}

/// A network namespace for an engine, which goes when it is dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// A fresh one with a loopback that is up.
    pub fn new(world: &World) -> Namespace {
        let namespace = Namespace(world.id("net"));
        command::run(Command::new("ip").args(["netns", "add", &namespace.0]), b"").exits(0);
        let up = ["ip", "link", "set", "lo", "up"];
        command::run(namespace.enter().args(up), b"").exits(0);
        namespace
    }

    /// What `nsenter` is told to go there.
    pub fn option(&self) -> String {
        format!("--net=/run/netns/{}", self.0)
    }

    /// What is opened to join it.
    pub fn file(&self) -> fs::File {
        fs::File::open(Path::new("/run/netns").join(&self.0)).expect("open the namespace")
    }

    /// `nsenter`, to which a program in it is to be added.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(self.option());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = command::run(Command::new("ip").args(["netns", "delete", &self.0]), b"");
    }
}
