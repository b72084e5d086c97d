// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A Docker daemon and a containerd of one case: data, sockets, network namespace and control group of their own, and a runtime
//! under test as the default one. All that they have made goes when it is dropped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::engine::{self, Engine, IMAGE};
use crate::suite::{Place, Suite};
use crate::world::{self, link_shim};
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
    place: Place,
    named: Named,
}

/// How the daemon finds the runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Its program, which containerd's shim of runc calls.
    Path,
    /// A shim of its own. Daemons before 23 know none.
    Type,
}

impl<'w> Docker<'w> {
    /// That of `suite`. Errors: why it cannot be had.
    pub fn new(world: &'w World, suite: Suite, named: Named) -> Result<Docker<'w>, String> {
        let place = Place::networked(world, suite)?;
        for program in [CLIENT, "containerd"] {
            place.version(program)?;
        }
        let version = place.version("dockerd")?;
        let major = version.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
        let dir = world.dir();
        let mut docker = Docker {
            world,
            client: String::new(),
            daemons: Vec::new(),
            place,
            named,
        };
        docker.configure();
        let containerd = docker.daemon("containerd", &["--config".into(), "containerd.toml".into()]);
        docker.daemons.push(containerd);
        command::until("containerd listens", || dir.join("containerd.sock").exists());
        let mut options = docker.options();
        if major.is_some_and(|major| major < 25) {
            // It lowers its own by itself, which may not be done everywhere; later ones leave it alone.
            options.extend(["--oom-score-adjust".into(), "0".into()]);
        }
        let dockerd = docker.daemon("dockerd", &options);
        docker.daemons.insert(0, dockerd);
        let mut version = String::new();
        command::until("dockerd answers", || {
            version = docker.run(&["version", "--format", "{{.Server.Version}}"]).text();
            !version.is_empty()
        });
        let how = match named {
            Named::Path => "",
            Named::Type => ", runtimeType",
        };
        docker.client = format!("docker {}{how}", version.split('+').next().unwrap_or_default());
        let image = engine::image(world);
        let import = ["import", "--change", "ENV PATH=/bin", &image.to_string_lossy(), IMAGE];
        docker.run(&import).exits(0);
        Ok(docker)
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
        let runtime = match self.named {
            Named::Path => json!({"path": engine::runtime(self.world)}),
            Named::Type => json!({"runtimeType": link_shim(self.world)}),
        };
        let daemon = json!({"runtimes": {"tested": runtime}}).to_string();
        fs::write(dir.join("daemon.json"), daemon).expect("write the configuration");
        fs::create_dir_all(dir.join("home")).expect("make a directory");
    }

    /// Of dockerd. Limits that may be set everywhere.
    fn options(&self) -> Vec<String> {
        let at = |name: &str| self.world.dir().join(name).display().to_string();
        [
            ("--config-file", at("daemon.json")),
            ("--containerd", at("containerd.sock")),
            ("--data-root", at("docker")),
            ("--exec-root", at("exec")),
            ("--pidfile", at("docker.pid")),
            ("--host", format!("unix://{}", at("docker.sock"))),
            ("--cgroup-parent", format!("/{}", self.world.id("docker"))),
            ("--exec-opt", "native.cgroupdriver=cgroupfs".into()),
            ("--default-runtime", "tested".into()),
            ("--default-ulimit", "nofile=1024:1024".into()),
            ("--default-ulimit", "nproc=4096:4096".into()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
    }

    fn daemon(&self, program: &str, args: &[String]) -> Child {
        let dir = self.world.dir();
        let log = fs::File::create(dir.join(format!("{program}.log"))).expect("create a log");
        let mut command = self.place.command(program);
        command
            .args(args)
            .env("PATH", world::path(self.world))
            .stdin(Stdio::null());
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
        let mut command = self.place.command(CLIENT);
        command
            .arg("--host")
            .arg(format!("unix://{}", dir.join("docker.sock").display()))
            .env("DOCKER_CONFIG", dir.join("home"))
            .env("DOCKER_BUILDKIT", "0");
        command
    }

    fn inside(&self, args: &[&str]) -> Outcome {
        self.place.inside(args)
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
