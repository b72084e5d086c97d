// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The Debian whose engines are tested: this machine's, or that of another suite, of which `scripts/engine-tree` makes a tree once per
//! machine. Engines of a tree see it as their root, in a mount namespace of their own; all else is the host's.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::engine::Namespace;
use crate::world::binaries;
use crate::{Outcome, World, command};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// What is installed here.
    Host,
    /// A tree of this name.
    Tree(&'static str),
}

impl Suite {
    /// All that are tested, each with what `make engines` has to make for it.
    pub const ALL: [Suite; 3] = [Suite::Host, Suite::Tree("trixie"), Suite::Tree("sid")];

    /// A group of tests with an engine of it.
    pub fn group(self, name: &str) -> String {
        match self {
            Suite::Host => name.to_owned(),
            Suite::Tree(suite) => format!("{name}@{suite}"),
        }
    }

    /// Its root, none for the host's. Errors: why it is not to be used here.
    fn root(self) -> Result<Option<PathBuf>, String> {
        let Suite::Tree(suite) = self else {
            return Ok(None);
        };
        if std::env::var_os("KATA_TEST_ENGINES").is_none() {
            return Err("takes long: make engines".into());
        }
        let dir = std::env::var_os("KATA_ENGINES_DIR").map_or_else(
            || {
                let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
                target
                    .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
                    .join("engines")
            },
            PathBuf::from,
        );
        let root = fs::canonicalize(dir.join(suite));
        root.map(Some)
            .map_err(|_| format!("no {suite} with its engines: make engines"))
    }
}

/// Makes the rest of the arguments' first the root, with an overlay over it that goes with the namespace, the host's kernel and sockets,
/// and the other arguments, which are directories, at their own places. Ends when its input does.
const SETTLE: &str = "set -eu; root=$1; shift; mount -t tmpfs engine /mnt; mkdir /mnt/upper /mnt/work /mnt/root; \
     mount -t overlay -o lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work engine /mnt/root; cd /mnt/root; \
     for at in /proc /sys /dev /run; do mount --rbind $at .$at; done; mount -t tmpfs -o mode=1777 tmp ./tmp; \
     for at; do mkdir -p .$at; mount --bind $at .$at; mount --make-shared .$at; done; \
     pivot_root . mnt; cd /; umount -l /mnt; echo settled; exec cat";

/// Where programs of a suite run.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// Holds the mount namespace of a tree.
    keeper: Option<Child>,
    network: Option<Namespace>,
}

impl Place {
    /// One of `world`, in the host's network. Errors: why there is none here.
    pub fn new(world: &World, suite: Suite) -> Result<Place, String> {
        let keeper = suite.root()?.map(|root| settle(world, &root));
        Ok(Place {
            dir: world.dir().to_owned(),
            keeper,
            network: None,
        })
    }

    /// One with a network namespace of its own.
    pub fn networked(world: &World, suite: Suite) -> Result<Place, String> {
        let mut place = Place::new(world, suite)?;
        place.network = Some(Namespace::new(world));
        Ok(place)
    }

    /// A program there, in the directory of the world.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match (&self.network, &self.keeper) {
            (None, None) => Command::new(program.as_ref()),
            (network, keeper) => {
                let mut command = Command::new("nsenter");
                command.args(network.as_ref().map(Namespace::option));
                if let Some(keeper) = keeper {
                    command.arg(format!("--mount=/proc/{}/ns/mnt", keeper.id()));
                    command.arg(format!("--wdns={}", self.dir.display()));
                }
                command.arg(program.as_ref());
                command
            }
        };
        command.current_dir(&self.dir);
        command
    }

    /// What a program says of its version. Errors: it is not installed.
    pub fn version(&self, program: &str) -> Result<String, String> {
        let told = self.command(program).arg("--version").output();
        let told = told.ok().filter(|told| told.status.success());
        let told = told.ok_or_else(|| format!("{program} is not installed"))?;
        Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
    }

    /// Its own network, if it has one.
    pub fn network(&self) -> Option<&Namespace> {
        self.network.as_ref()
    }

    /// A command of the host's in its network.
    pub fn inside(&self, args: &[&str]) -> Outcome {
        let network = self.network.as_ref().expect("it has a network of its own");
        command::run(network.enter().args(args), b"")
    }
}

/// A mount namespace with `root` as its root.
fn settle(world: &World, root: &Path) -> Child {
    let mut seen = vec![world.dir().to_owned(), binaries()];
    for (variable, default) in [
        ("KATA_GUEST_DIR", "/var/lib/kata/guest"),
        ("KATA_TEMPLATE_DIR", "/var/lib/kata/templates"),
    ] {
        seen.push(std::env::var_os(variable).unwrap_or_else(|| default.into()).into());
    }
    let seen = seen.iter().filter_map(|dir| fs::canonicalize(dir).ok());
    let mut keeper = Command::new("unshare");
    keeper
        .args(["--mount", "--propagation=slave", "sh", "-c", SETTLE, "sh"])
        .arg(root)
        .args(seen)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut keeper = keeper.spawn().expect("unshare is installed");
    let mut told = String::new();
    let output = keeper.stdout.take().expect("a pipe");
    BufReader::new(output)
        .read_line(&mut told)
        .expect("read what the keeper says");
    assert_eq!(told, "settled\n", "a root of {}", root.display());
    keeper
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            drop(keeper.stdin.take());
            let _ = command::end(keeper);
        }
    }
}
