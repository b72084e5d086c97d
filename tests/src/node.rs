// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A node as Kubernetes has one, without the kubelet: containerd with its CRI plugin, CNI's bridge, and a network namespace in place of
//! the host's. All that it has made goes when it is dropped.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::containerd::{self, IMAGE};
use crate::cri::Cri;
use crate::engine::Namespace;
use crate::streaming::Streaming;
use crate::suite::{Place, Suite};
use crate::world::{self, link_shim};
use crate::{Runtime, World, command};

/// What a pod's own container runs.
const PAUSE: &str = "docker.io/library/pause:1";
/// Where the distribution has the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// How long groups of what was killed may take to go.
const LATE: Duration = Duration::from_secs(10);
/// containerd's namespace of all that CRI makes.
const NAMESPACE: &str = "k8s.io";

/// What containerd makes a pod of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandboxer {
    /// A container that does nothing (`podsandbox`, its default).
    Container,
    /// What the runtime's shim makes (`shim`). The reference has none: its pods are containers all the same.
    Shim,
}

/// See the module.
#[derive(Debug)]
pub struct Node<'w> {
    world: &'w World,
    place: Place,
    sandboxer: Sandboxer,
    daemon: Mutex<Child>,
    /// containerd's name and version.
    client: String,
}

impl<'w> Node<'w> {
    /// With containerd of `suite`. What is missing, if it cannot be had here.
    pub fn new(world: &'w World, suite: Suite, sandboxer: Sandboxer) -> Result<Node<'w>, String> {
        let place = Place::networked(world, suite)?;
        place.version("containerd")?;
        let plugin = place
            .command("test")
            .args(["-e", &format!("{PLUGINS}/bridge")])
            .status();
        if !plugin.is_ok_and(|found| found.success()) {
            return Err(format!("no CNI plugins in {PLUGINS}: containernetworking-plugins"));
        }
        configure(world, link_shim(world), sandboxer);
        let mut node = Node {
            world,
            daemon: Mutex::new(daemon(world, &place, sandboxer)),
            place,
            sandboxer,
            client: String::new(),
        };
        node.serves();
        let forever = "trap 'exit 0' TERM INT; while :; do sleep 1000 & wait $!; done";
        node.import(IMAGE, &["sh"]);
        if world.runtime == Runtime::Reference || sandboxer == Sandboxer::Container {
            node.import(PAUSE, &["sh", "-c", forever]);
        }
        let version = node.cri().call("Version", &json!({}));
        let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
        let number = text("runtime_version");
        node.client = format!(
            "{} {} CRI{}",
            text("runtime_name"),
            number.split(['~', '+']).next().unwrap_or_default(),
            if sandboxer == Sandboxer::Shim {
                ", sandboxer shim"
            } else {
                ""
            }
        );
        Ok(node)
    }

    /// containerd's name and version.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// What its pods are made of.
    pub fn sandboxer(&self) -> Sandboxer {
        self.sandboxer
    }

    /// Where its data is.
    pub fn world(&self) -> &'w World {
        self.world
    }

    fn socket(&self) -> PathBuf {
        self.world.dir().join("c.sock")
    }

    /// A client of its own for each who asks.
    pub fn cri(&self) -> Cri {
        Cri::new(&self.socket())
    }

    fn serves(&self) {
        command::until("containerd serves CRI", || {
            let status = self.cri().ask("Status", &json!({}));
            let conditions = status
                .ok()
                .and_then(|status| status["status"]["conditions"].as_array().cloned());
            conditions.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["status"] == true))
        });
    }

    fn import(&self, image: &str, process: &[&str]) {
        let archive = containerd::archive(self.world, image, process);
        let mut ctr = self.place.command("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]);
        command::run(ctr.args(["images", "import"]).arg(archive), b"").exits(0);
    }

    /// A command in the network that pods are reached from.
    pub fn enter(&self) -> Command {
        self.network().enter()
    }

    fn network(&self) -> &Namespace {
        self.place.network().expect("a node has a network of its own")
    }

    /// What `script` prints where containerd's files and mounts are; `args` are its arguments.
    #[track_caller]
    pub fn sh(&self, script: &str, args: &[&Path]) -> String {
        let mut shell = self.place.command("sh");
        shell.args(["-ec", script, "sh"]).args(args);
        command::run(&mut shell, b"").exits(0).text()
    }

    /// Opens what an answer to `Exec`, `Attach` or `PortForward` points at, with `query` added.
    #[track_caller]
    pub fn stream(&self, answer: &Value, query: &str) -> Streaming {
        let url = answer["url"].as_str().expect("a URL");
        let address = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let (network, address) = (self.network().file(), address.to_owned());
        // The thread stays there, and its connection too.
        let connection = thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            TcpStream::connect(&address).unwrap_or_else(|e| panic!("connect to {address}: {e}"))
        });
        Streaming::new(connection.join().expect("the thread"), &format!("{url}{query}"))
    }

    /// Ends the daemon by `signal`, and starts it again.
    pub fn restart(&self, signal: Signal) {
        let mut running = self.daemon.lock().expect("nobody panicked with it");
        let _ = kill(Pid::from_raw(running.id().cast_signed()), signal);
        command::end(&mut running);
        *running = daemon(self.world, &self.place, self.sandboxer);
        drop(running);
        self.serves();
    }

    /// containerd's log, with that of the shims.
    pub fn log(&self) -> String {
        fs::read_to_string(self.world.dir().join("containerd.log")).unwrap_or_default()
    }

    /// The control group of all pods.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.world.id("pods"))
    }

    fn clear(&self) {
        let cri = self.cri();
        let pods = cri.ask("ListPodSandbox", &json!({})).unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            for verb in ["StopPodSandbox", "RemovePodSandbox"] {
                if let Err(e) = cri.ask(verb, &json!({ "pod_sandbox_id": pod["id"] })) {
                    eprintln!("{verb}: {e}");
                }
            }
        }
    }
}

/// For the runtime type `kind`.
fn configure(world: &World, kind: &str, sandboxer: Sandboxer) {
    let dir = world.dir().display();
    // As 2.x and 1.7 spell it.
    let sandboxer = match (world.runtime, sandboxer) {
        (Runtime::Ours, Sandboxer::Shim) => "sandboxer = \"shim\"\nsandbox_mode = \"shim\"",
        _ => "",
    };
    let file = world.configuration();
    let options = if file.exists() {
        format!("options = {{ ConfigPath = {:?} }}", file.display().to_string())
    } else {
        String::new()
    };
    let config = format!(
        r#"version = 2
root = "{dir}/engine/root"
state = "{dir}/engine/state"
oom_score = 0
[grpc]
address = "{dir}/c.sock"
[debug]
level = "debug"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
max_container_log_line_size = 16384
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{dir}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "tested"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested]
runtime_type = "{kind}"
privileged_without_host_devices = true
pod_annotations = ["io.katacontainers.*"]
{sandboxer}
{options}
"#
    );
    fs::write(world.dir().join("containerd.toml"), config).expect("write the configuration");
    let network = json!({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [
            {
                "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": world.dir().join("addresses"),
                    "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }]
                }
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
        ]
    });
    let directory = world.dir().join("cni");
    fs::create_dir(&directory).expect("make a directory");
    fs::write(directory.join("10-pods.conflist"), network.to_string()).expect("write the network");
}

fn daemon(world: &World, place: &Place, sandboxer: Sandboxer) -> Child {
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(world.dir().join("containerd.log"));
    let log = log.expect("open the log");
    let mut command = place.command("containerd");
    command.arg("--config").arg(world.dir().join("containerd.toml"));
    command.env("PATH", world::path(world));
    if sandboxer == Sandboxer::Shim {
        // 1.7 has them only if it is told so.
        command.env("ENABLE_CRI_SANDBOXES", "1");
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("dup"))
        .stderr(log);
    command.spawn().expect("start containerd")
}

/// Kills what is in the groups below `group`, and removes them.
fn empty(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for inner in below.map(|entry| entry.path()).filter(|inner| inner.is_dir()) {
        empty(&inner);
        let processes = fs::read_to_string(inner.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = fs::remove_dir(inner);
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.clear();
        let mut daemon = self.daemon.lock().expect("nobody panicked with it");
        let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
        command::end(&mut daemon);
        // The group that the pods' groups were in stays; what was killed leaves it late.
        let parent = self.world.id("pods");
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut left: Vec<PathBuf> = hierarchies
            .map(|entry| entry.path())
            .chain(["/sys/fs/cgroup".into()])
            .map(|top| top.join(&parent))
            .collect();
        let end = Instant::now() + LATE;
        while !left.is_empty() && Instant::now() < end {
            if self.world.runtime == Runtime::Reference {
                // Containers whose shim was killed live on with containerd 2.
                left.iter().for_each(|group| empty(group));
            }
            left.retain(|group| group.exists() && fs::remove_dir(group).is_err());
            thread::sleep(Duration::from_millis(20));
        }
    }
}
