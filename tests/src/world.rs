// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One test's own piece of the machine: a directory with the runtime's root, bundles and whatever the case makes. When it ends,
//! nothing of it may be left: see [`crate::leak`].

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::{Bundle, Outcome, command, leak};

/// Whose behaviour is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// runc: a case must hold here first.
    Reference,
    /// Ours.
    Ours,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub runtime: Runtime,
    /// Where ours is.
    binaries: PathBuf,
    dir: tempfile::TempDir,
    /// Container ids are unique over the machine: runc keeps its cgroups by id.
    prefix: String,
    born: SystemTime,
}

/// Where the binaries under test are: `KATA_BIN_DIR`, or the release directory of the build.
pub fn binaries() -> PathBuf {
    std::env::var_os("KATA_BIN_DIR").map_or_else(
        || {
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            target
                .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
                .join("release")
        },
        PathBuf::from,
    )
}

/// `kata` in the directory `binaries`, with the guest images that are there, if any.
pub fn program(binaries: &Path) -> Command {
    let mut command = Command::new(binaries.join("kata"));
    let guest = binaries.join("guest");
    if guest.is_dir() {
        command
            .env("KATA_GUEST_DIR", guest)
            .env("KATA_TEMPLATE_DIR", binaries.join("templates"));
    }
    command
}

/// The type of runtime by which containerd finds the shim under test, which is linked where [`path`] leads.
pub fn link_shim(world: &World) -> &'static str {
    if world.runtime == Runtime::Reference {
        return "io.containerd.runc.v2";
    }
    let dir = world.dir().join("bin");
    std::fs::create_dir(&dir).expect("make a directory");
    let kata = std::fs::canonicalize(binaries().join("kata")).expect("kata is built");
    symlink(kata, dir.join("containerd-shim-kata-v2")).expect("link the shim");
    "io.containerd.kata.v2"
}

/// Where daemons of `world` look for programs.
pub fn path(world: &World) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", world.dir().join("bin").display())
}

impl World {
    /// A new one for `runtime`.
    pub fn new(runtime: Runtime) -> World {
        World::with(runtime, binaries())
    }

    /// As [`World::new`], with our programs from the directory `binaries`. Where that has guest images too (`guest/`), they are used,
    /// and templates are kept beside them (`templates/`).
    pub fn with(runtime: Runtime, binaries: PathBuf) -> World {
        let dir = tempfile::Builder::new()
            .prefix("kata-test-")
            .tempdir()
            .expect("temporary directory");
        let prefix = dir
            .path()
            .file_name()
            .expect("has a name")
            .to_string_lossy()
            .into_owned();
        World {
            runtime,
            binaries,
            dir,
            prefix,
            born: SystemTime::now(),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// When it began.
    pub fn born(&self) -> SystemTime {
        self.born
    }

    /// The runtime's `--root`.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// A machine-wide unique container id.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The sandbox directory of a container.
    pub fn sandbox(&self, name: &str) -> PathBuf {
        self.root().join(self.id(name)).join("sandbox")
    }

    /// A bundle whose process is `sh -c script`.
    pub fn bundle(&self, name: &str, script: &str) -> Bundle {
        let path = self.dir().join(format!("bundle-{name}"));
        std::fs::create_dir_all(&path).expect("create the bundle");
        Bundle::create(&path, script)
    }

    /// Ours has this configuration from now on, in `kata.toml` of the world.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.configuration(), text).expect("write the configuration");
    }

    /// Where that is.
    pub fn configuration(&self) -> PathBuf {
        self.dir().join("kata.toml")
    }

    /// `kata`, with the configuration of this world if it has one.
    fn program(&self) -> Command {
        let mut command = program(&self.binaries);
        if self.configuration().exists() {
            command.env("KATA_CONFIG", self.configuration());
        }
        command
    }

    /// The runtime's command line up to and including `--root`.
    pub fn runtime(&self) -> Command {
        let mut command = match self.runtime {
            Runtime::Reference => Command::new("runc"),
            Runtime::Ours => {
                let mut command = self.program();
                command.arg("runtime");
                command
            }
        };
        command.arg("--root").arg(self.root()).current_dir(self.dir());
        command
    }

    /// Runs a verb of the runtime to its end.
    #[track_caller]
    pub fn oci(&self, args: &[&str]) -> Outcome {
        command::run(self.runtime().args(args), b"")
    }

    /// `run` in the foreground with `input`.
    #[track_caller]
    pub fn run_with(&self, name: &str, bundle: &Bundle, input: &[u8]) -> Outcome {
        let mut command = self.runtime();
        command.arg("run").arg("--bundle").arg(&bundle.path).arg(self.id(name));
        command::run(&mut command, input)
    }

    /// A bundle for `script` and `run` in the foreground.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Outcome {
        let bundle = self.bundle("sh", script);
        self.run_with("sh", &bundle, b"")
    }

    /// `create`, with the pid that it wrote.
    #[track_caller]
    pub fn create(&self, name: &str, bundle: &Bundle) -> i32 {
        let pid_file = self.dir().join(format!("{name}.pid"));
        let mut command = self.runtime();
        command
            .arg("create")
            .arg("--bundle")
            .arg(&bundle.path)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(self.id(name));
        command::run(&mut command, b"").exits(0);
        let text = std::fs::read_to_string(&pid_file).expect("create wrote the pid file");
        text.parse().unwrap_or_else(|e| panic!("pid file {text:?}: {e}"))
    }

    /// The output of `state`.
    #[track_caller]
    pub fn state(&self, name: &str) -> serde_json::Value {
        let outcome = self.oci(&["state", &self.id(name)]);
        outcome.exits(0);
        serde_json::from_slice(&outcome.stdout).expect("state prints JSON")
    }

    /// Waits until `state` says so.
    #[track_caller]
    pub fn until_status(&self, name: &str, status: &str) {
        command::until(&format!("{name} is {status}"), || self.state(name)["status"] == status);
    }

    /// Our own porcelain, with its data below this world.
    pub fn kata(&self) -> Command {
        let mut command = self.program();
        command.current_dir(self.dir());
        command
            .env("KATA_STATE_DIR", self.dir().join("state"))
            .env("KATA_IMAGE_DIR", self.dir().join("images"));
        command.env("KATA_RUN_DIR", self.root());
        command
    }

    /// Ends the world: fails if anything of it is left.
    pub fn end(self) {
        leak::check(&self);
    }
}
