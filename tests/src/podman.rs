// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Podman with a storage, a configuration and a network namespace of its own, and a runtime under test. All that it has made goes when
//! it is dropped.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::binaries;
use crate::{Outcome, Runtime, World, command};

/// The image of all containers.
pub const IMAGE: &str = "localhost/test";

/// See the module.
#[derive(Debug)]
pub struct Podman<'w> {
    world: &'w World,
    runtime: PathBuf,
    /// Name of the network namespace.
    netns: String,
}

/// conmon gives the runtime an environment of its own: the stores that ours names are handed over in a script.
fn install(runtime: &Path) {
    let kata = fs::canonicalize(binaries().join("kata")).expect("kata is built");
    let stores =
        ["KATA_GUEST_DIR", "KATA_TEMPLATE_DIR"].map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let stores: Vec<String> = stores.into_iter().flatten().collect();
    if stores.is_empty() {
        symlink(kata, runtime).expect("link it");
        return;
    }
    let script = format!(
        "#!/bin/sh\nexec env {} {} runtime \"$@\"\n",
        stores.join(" "),
        kata.display()
    );
    fs::write(runtime, script).expect("write the script");
    fs::set_permissions(runtime, fs::Permissions::from_mode(0o755)).expect("let it run");
}

impl<'w> Podman<'w> {
    /// None when it is not installed.
    pub fn new(world: &'w World) -> Option<Podman<'w>> {
        Command::new("podman").arg("--version").output().ok()?;
        let dir = world.dir();
        let runtime = match world.runtime {
            Runtime::Reference => "/usr/sbin/runc".into(),
            Runtime::Ours => dir.join("kata-runtime"),
        };
        if world.runtime == Runtime::Ours {
            install(&runtime);
        }
        // Locks in files: those in shared memory are the machine's. Limits that may be set everywhere.
        let config = "[engine]\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\nevents_logger = \"file\"\n\
                      [containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n[network]\nnetwork_backend = \"netavark\"\n";
        fs::write(dir.join("containers.conf"), config).expect("write the configuration");
        let podman = Podman {
            world,
            runtime,
            netns: world.id("net"),
        };
        command::run(Command::new("ip").args(["netns", "add", &podman.netns]), b"").exits(0);
        podman.inside(&["ip", "link", "set", "lo", "up"]).exits(0);
        podman.import();
        Some(podman)
    }

    fn import(&self) {
        let bundle = self.world.bundle("image", "true");
        let tar = self.world.dir().join("image.tar");
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&tar).arg(".");
        command::run(&mut pack, b"").exits(0);
        self.run(&["import", "--quiet", &tar.to_string_lossy(), IMAGE]).exits(0);
    }

    /// A command in its network namespace.
    pub fn inside(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).args(args);
        command::run(&mut command, b"")
    }

    /// `podman args…` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        let dir = self.world.dir();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            .current_dir(dir)
            .arg("podman");
        for (option, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "libpod")] {
            command.arg(option).arg(dir.join(name));
        }
        command.arg("--network-config-dir").arg(dir.join("networks"));
        command.arg("--runtime").arg(&self.runtime).args(args);
        command::run(&mut command, b"")
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
        let _ = command::run(Command::new("umount").arg(storage), b"");
        let _ = command::run(Command::new("ip").args(["netns", "delete", &self.netns]), b"");
    }
}
