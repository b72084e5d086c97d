// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! containerd with a root, a state and a socket of its own, `ctr`, and the shim under test. All that it has made goes when it is
//! dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::suite::{Place, Suite};
use crate::world::{self, link_shim};
use crate::{Outcome, World, command};

/// The image of all containers.
pub const IMAGE: &str = "docker.io/library/test:1";

/// See the module.
#[derive(Debug)]
pub struct Containerd<'w> {
    world: &'w World,
    place: Place,
    /// Its name and version.
    pub client: String,
    runtime: &'static str,
    daemon: Mutex<Child>,
}

impl<'w> Containerd<'w> {
    /// That of `suite`. Errors: why it cannot be had.
    pub fn new(world: &'w World, suite: Suite) -> Result<Containerd<'w>, String> {
        let place = Place::new(world, suite)?;
        let version = place.version("containerd")?;
        let version = version.split_whitespace().nth(2).unwrap_or_default();
        let version = version.split(['~', '+']).next().unwrap_or_default();
        let dir = world.dir();
        let config = format!(
            "version = 2\nroot = \"{0}/engine/root\"\nstate = \"{0}/engine/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/c.sock\"\n[debug]\nlevel = \"debug\"\n",
            dir.display()
        );
        fs::write(dir.join("containerd.toml"), config).expect("write the configuration");
        let containerd = Containerd {
            world,
            client: format!("ctr {version}"),
            runtime: link_shim(world),
            daemon: Mutex::new(daemon(world, &place)),
            place,
        };
        containerd.serves();
        containerd.import();
        Ok(containerd)
    }

    fn serves(&self) {
        command::until("containerd answers", || self.ctr(&["version"]).code == 0);
    }

    fn import(&self) {
        let archive = archive(self.world, IMAGE, &["sh"]);
        self.ctr(&["images", "import", &archive.to_string_lossy()]).exits(0);
    }

    /// The runtime type under test.
    pub fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// containerd's namespace of this world.
    pub fn namespace(&self) -> String {
        self.world.id("ns")
    }

    /// `ctr args…`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command("ctr");
        command.arg("--address").arg(self.world.dir().join("c.sock"));
        command.args(["--namespace", &self.namespace()]);
        command.args(args);
        command
    }

    /// As [`Containerd::command`], to its end.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        command::run(&mut self.command(args), b"")
    }

    /// The words of `ctr run` with `options`, a container's name and its process `sh -c script`.
    pub fn run_words<'a>(&self, options: &[&'a str], name: &'a str, script: &'a str) -> Vec<&'a str> {
        let mut words = vec!["run", "--runtime", self.runtime()];
        words.extend(options);
        words.extend([IMAGE, name, "sh", "-c", script]);
        words
    }

    /// `ctr run`.
    #[track_caller]
    pub fn run(&self, options: &[&str], name: &str, script: &str) -> Outcome {
        self.ctr(&self.run_words(options, name, script))
    }

    /// Lines of a shell where the daemon is, with its mounts.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Outcome {
        command::run(self.place.command("sh").args(["-c", script]), b"")
    }

    /// What `ctr tasks ls` says of a task: its pid and where it stands.
    pub fn task(&self, name: &str) -> Option<(i32, String)> {
        let list = self.ctr(&["tasks", "ls"]).text();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.get(1)?.parse().ok()?, (*words.get(2)?).to_owned()))
    }

    /// Waits until a task is `status`.
    #[track_caller]
    pub fn until(&self, name: &str, status: &str) {
        command::until(&format!("task {name} is {status}"), || {
            self.task(name).is_some_and(|(_, is)| is == status)
        });
    }

    /// Where the shim of a container listens.
    pub fn socket(&self, name: &str) -> PathBuf {
        let bundle = self.world.dir().join("engine/state/io.containerd.runtime.v2.task");
        let bundle = bundle.join(self.namespace()).join(name);
        // containerd 2 keeps it with what else the shim answered.
        let address = fs::read(bundle.join("bootstrap.json")).map_or_else(
            |_| fs::read_to_string(bundle.join("address")).expect("the shim wrote its address"),
            |text| {
                let told: Value = serde_json::from_slice(&text).expect("it is JSON");
                told["address"].as_str().expect("an address").to_owned()
            },
        );
        PathBuf::from(address.trim().trim_start_matches("unix://"))
    }

    /// The process that containerd talks to about a container.
    pub fn shim(&self, name: &str) -> i32 {
        let listing = command::run(Command::new("ss").args(["-xlp"]), b"").text();
        let socket = self.socket(name).to_string_lossy().into_owned();
        let line = listing.lines().find(|line| line.contains(&socket));
        let line = line.unwrap_or_else(|| panic!("nobody listens on {socket}"));
        let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(',').next());
        pid.and_then(|pid| pid.parse().ok()).expect("ss names the process")
    }

    /// Ends the daemon, as an update of the package does, and starts it again.
    pub fn restart(&self) {
        let mut running = self.daemon.lock().expect("nobody panicked with it");
        stop(&mut running);
        *running = daemon(self.world, &self.place);
        drop(running);
        self.serves();
    }
}

/// A docker archive `image` of one layer, a busybox root, whose process is `process`.
pub fn archive(world: &World, image: &str, process: &[&str]) -> PathBuf {
    layered(world, image, process, &[])
}

/// Likewise with further layers above the first: what is in these directories.
pub fn layered(world: &World, image: &str, process: &[&str], above: &[PathBuf]) -> PathBuf {
    let bundle = world.bundle("image", "true");
    let parts = world.dir().join("archive");
    fs::create_dir_all(&parts).expect("make a directory");
    let roots = [bundle.rootfs().to_owned()].into_iter().chain(above.iter().cloned());
    let layers: Vec<(String, String)> = roots
        .zip(0..)
        .map(|(root, index)| pack_layer(&parts, &root, index))
        .collect();
    let (names, digests): (Vec<String>, Vec<String>) = layers.into_iter().unzip();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": process },
        "rootfs": { "type": "layers", "diff_ids": digests }
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [image], "Layers": names }]);
    fs::write(parts.join("config.json"), config.to_string()).expect("write");
    fs::write(parts.join("manifest.json"), manifest.to_string()).expect("write");
    let archive = world.dir().join("image.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&parts).arg("-cf").arg(&archive);
    pack.args(["manifest.json", "config.json"]).args(&names);
    command::run(&mut pack, b"").exits(0);
    archive
}

/// The name and the digest of a layer with what is in `root`.
fn pack_layer(parts: &Path, root: &Path, index: usize) -> (String, String) {
    let name = format!("layer{index}.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(root).arg("-cf");
    command::run(pack.arg(parts.join(&name)).arg("."), b"").exits(0);
    let layer = fs::read(parts.join(&name)).expect("read the layer");
    let hex: String = Sha256::digest(&layer)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    (name, format!("sha256:{hex}"))
}

fn daemon(world: &World, place: &Place) -> Child {
    let dir = world.dir();
    let log = File::options()
        .append(true)
        .create(true)
        .open(dir.join("containerd.log"));
    let log = log.expect("open the log");
    place
        .command("containerd")
        .arg("--config")
        .arg(dir.join("containerd.toml"))
        .env("PATH", world::path(world))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("dup"))
        .stderr(log)
        .spawn()
        .expect("start containerd")
}

fn stop(daemon: &mut Child) {
    let pid = Pid::from_raw(daemon.id().cast_signed());
    let _ = kill(pid, Signal::SIGTERM);
    let _ = command::end(daemon);
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        for (list, delete) in [("tasks", &["--force"][..]), ("containers", &[])] {
            let names = self.ctr(&[list, "ls", "-q"]).text();
            for name in names.lines() {
                let words = [&[list, "delete"], delete, &[name]].concat();
                let gone = self.ctr(&words);
                if gone.code != 0 {
                    eprintln!("ctr {}: {}", words.join(" "), gone.stderr);
                }
            }
        }
        stop(&mut self.daemon.lock().expect("nobody panicked with it"));
        for shims in ["runc", "kata"] {
            // Of the namespace; empty by now.
            let _ = fs::remove_dir(Path::new("/run/containerd").join(shims).join(self.namespace()));
        }
        // Containers' groups are below one of the namespace's name, which nobody removes.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(self.namespace()));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(self.namespace()));
    }
}
