// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Podman with a storage, a configuration and a network namespace of its own, and a runtime under test. All that it has made goes when
//! it is dropped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::engine::{self, Engine, IMAGE};
use crate::suite::{Place, Suite};
use crate::{Outcome, World, command};

/// See the module.
#[derive(Debug)]
pub struct Podman<'w> {
    world: &'w World,
    client: String,
    runtime: PathBuf,
    place: Place,
}

impl<'w> Podman<'w> {
    /// That of `suite`. Errors: why it cannot be had.
    pub fn new(world: &'w World, suite: Suite) -> Result<Podman<'w>, String> {
        let place = Place::networked(world, suite)?;
        let version = place.version("podman")?;
        // Locks in files: those in shared memory are the machine's. Limits that may be set everywhere.
        let config = "[engine]\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\nevents_logger = \"file\"\n\
                      [containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n[network]\nnetwork_backend = \"netavark\"\n";
        fs::write(world.dir().join("containers.conf"), config).expect("write the configuration");
        let podman = Podman {
            world,
            client: version.replace(" version", ""),
            runtime: engine::runtime(world),
            place,
        };
        let image = engine::image(world);
        podman
            .run(&["import", "--quiet", &image.to_string_lossy(), IMAGE])
            .exits(0);
        Ok(podman)
    }
}

impl Engine for Podman<'_> {
    fn client(&self) -> &str {
        &self.client
    }

    fn world(&self) -> &World {
        self.world
    }

    fn command(&self) -> Command {
        let dir = self.world.dir();
        let mut command = self.place.command("podman");
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        // It says so with each command.
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        for (option, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "libpod")] {
            command.arg(option).arg(dir.join(name));
        }
        command.arg("--network-config-dir").arg(dir.join("networks"));
        command.arg("--runtime").arg(&self.runtime);
        command
    }

    fn inside(&self, args: &[&str]) -> Outcome {
        self.place.inside(args)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let gone = self.run(&["rm", "--force", "--all", "--time", "0"]);
        if gone.code != 0 {
            eprintln!("podman rm: {}", gone.stderr);
        }
        // Each conmon has Podman clean up once more when its container has ended, which mounts the storage again.
        let ours = self.world.dir().display().to_string();
        for _ in 0..100 {
            let busy = command::run(
                Command::new("pgrep").args(["--full", &format!("podman.*{ours}|conmon.*{ours}")]),
                b"",
            );
            if busy.code != 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let storage = self.world.dir().join("storage/overlay");
        // Podman keeps a mount of its storage for itself.
        let _ = command::run(self.place.command("umount").arg(storage), b"");
    }
}
