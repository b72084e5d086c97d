// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A Docker daemon and a containerd of one case: data, sockets, network namespace and control group of their own, and a runtime
//! under test as the default one. All that they have made goes when it is dropped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::engine::{self, Engine, IMAGE, Namespace};
use crate::{Outcome, World, command};

/// The distribution's, whatever else is on the path: client and daemon fit.
const CLIENT: &str = "/usr/bin/docker";

/// See the module.
#[derive(Debug)]
pub struct Docker<'w> {
    world: &'w World,
    client: String,
    /// dockerd, then containerd: they end in this order.
    daemons: Vec<Child>,
    namespace: Namespace,
}

impl<'w> Docker<'w> {
    /// None when it is not installed.
    pub fn new(world: &'w World) -> Option<Docker<'w>> {
        for program in [CLIENT, "dockerd", "containerd"] {
            Command::new(program).arg("--version").output().ok()?;
        }
        let dir = world.dir();
        let mut docker = Docker {
            world,
            client: String::new(),
            daemons: Vec::new(),
            namespace: Namespace::new(world),
        };
        docker.configure();
        let containerd = docker.daemon("containerd", &["--config".into(), "containerd.toml".into()]);
        docker.daemons.push(containerd);
        command::until("containerd listens", || dir.join("containerd.sock").exists());
        let dockerd = docker.daemon("dockerd", &docker.options());
        docker.daemons.insert(0, dockerd);
        let mut version = String::new();
        command::until("dockerd answers", || {
            version = docker.run(&["version", "--format", "{{.Server.Version}}"]).text();
            !version.is_empty()
        });
        docker.client = format!("docker {}", version.split('+').next().unwrap_or_default());
        let image = engine::image(world);
        let import = ["import", "--change", "ENV PATH=/bin", &image.to_string_lossy(), IMAGE];
        docker.run(&import).exits(0);
        Some(docker)
    }

    fn configure(&self) {
        let dir = self.world.dir();
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\noom_score = 0\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n\
             address = \"{}\"\n",
            at("containerd"),
            at("containerd-run"),
            at("containerd.sock")
        );
        fs::write(dir.join("containerd.toml"), config).expect("write the configuration");
        fs::write(dir.join("daemon.json"), "{}").expect("write the configuration");
        fs::create_dir_all(dir.join("home")).expect("make a directory");
    }

    /// Of dockerd. Limits that may be set everywhere; its mark in the kernel's out-of-memory score stays, for the same reason.
    fn options(&self) -> Vec<String> {
        let at = |name: &str| self.world.dir().join(name).display().to_string();
        let tested = engine::runtime(self.world);
        [
            ("--config-file", at("daemon.json")),
            ("--containerd", at("containerd.sock")),
            ("--data-root", at("docker")),
            ("--exec-root", at("exec")),
            ("--pidfile", at("docker.pid")),
            ("--host", format!("unix://{}", at("docker.sock"))),
            ("--cgroup-parent", format!("/{}", self.world.id("docker"))),
            ("--exec-opt", "native.cgroupdriver=cgroupfs".into()),
            ("--add-runtime", format!("tested={}", tested.display())),
            ("--default-runtime", "tested".into()),
            ("--default-ulimit", "nofile=1024:1024".into()),
            ("--default-ulimit", "nproc=4096:4096".into()),
            ("--oom-score-adjust", "0".into()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
    }

    fn daemon(&self, program: &str, args: &[String]) -> Child {
        let dir = self.world.dir();
        let log = fs::File::create(dir.join(format!("{program}.log"))).expect("create a log");
        let mut command = self.namespace.enter();
        command.arg(program).args(args).current_dir(dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("{program}: {e}"))
    }
}

impl Engine for Docker<'_> {
    fn client(&self) -> &str {
        &self.client
    }

    fn world(&self) -> &World {
        self.world
    }

    fn command(&self) -> Command {
        let dir = self.world.dir();
        let mut command = Command::new(CLIENT);
        command
            .arg("--host")
            .arg(format!("unix://{}", dir.join("docker.sock").display()))
            .env("DOCKER_CONFIG", dir.join("home"))
            .env("DOCKER_BUILDKIT", "0")
            .current_dir(dir);
        command
    }

    fn inside(&self, args: &[&str]) -> Outcome {
        command::run(self.namespace.enter().args(args), b"")
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let all = self.run(&["ps", "--all", "--quiet"]).text();
        if !all.is_empty() {
            let all: Vec<&str> = all.split_whitespace().collect();
            let gone = self.run(&[&["rm", "--force", "--volumes"], &all[..]].concat());
            if gone.code != 0 {
                eprintln!("docker rm: {}", gone.stderr);
            }
        }
        for daemon in &mut self.daemons {
            let pid = i32::try_from(daemon.id()).unwrap_or_default();
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            command::end(daemon);
        }
        // The group that its containers' groups were in stays.
        let parent = self.world.id("docker");
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for top in hierarchies
            .map(|entry| entry.path())
            .chain([Path::new("/sys/fs/cgroup").into()])
        {
            let _ = fs::remove_dir(top.join(&parent));
        }
    }
}
