// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A cluster of one node: etcd, the control plane and the kubelet of `scripts/kubernetes-tree` on a [`Node`], and kubectl. Pods are made
//! with the RuntimeClass of the runtime under test. All that it has made goes when it is dropped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::node::{Node, Sandboxer};
use crate::suite::Suite;
use crate::{Outcome, Runtime, World, command};

/// The RuntimeClass, and its handler.
pub const CLASS: &str = "tested";
/// The node's address, in its own network.
const ADDRESS: &str = "192.0.2.1";
/// Where the kubelet has the logs of pods, whatever it is told.
const LOGS: [&str; 2] = ["/var/log/pods", "/var/log/containers"];

/// See the module.
#[derive(Debug)]
pub struct Cluster<'w> {
    node: Node<'w>,
    programs: PathBuf,
    client: String,
    kubelet: Mutex<Option<Child>>,
    others: Vec<Child>,
}

/// Where `scripts/kubernetes-tree` left the programs. Errors: why they are not to be used here.
fn programs() -> Result<PathBuf, String> {
    let dir = std::env::var_os("KATA_TEST_KUBERNETES").ok_or("takes long: make kubernetes")?;
    let dir = fs::canonicalize(dir).map_err(|e| format!("no Kubernetes: {e}"))?;
    let etcd = Command::new("etcd").arg("--version").output();
    etcd.map_err(|_| "etcd is not installed: etcd-server")?;
    Ok(dir)
}

impl<'w> Cluster<'w> {
    /// One that is ready for pods. Errors: why it cannot be had here.
    pub fn new(world: &'w World) -> Result<Cluster<'w>, String> {
        let programs = programs()?;
        let node = Node::new(world, Suite::Host, Sandboxer::Container)?;
        let version = command::run(Command::new(programs.join("kubelet")).arg("--version"), b"").text();
        let number = version.split(" v").nth(1).unwrap_or_default().to_owned();
        let mut cluster = Cluster {
            client: format!("Kubernetes {number}, {}", node.client()),
            node,
            programs,
            kubelet: Mutex::new(None),
            others: Vec::new(),
        };
        cluster.connect();
        cluster.configure();
        cluster.control();
        cluster.start_kubelet();
        cluster.settle();
        Ok(cluster)
    }

    /// The node's name and version.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Where its data is.
    pub fn world(&self) -> &'w World {
        self.node.world()
    }

    /// A command in the network that pods are reached from.
    pub fn enter(&self) -> Command {
        self.node.enter()
    }

    /// Kubernetes' namespace of all pods.
    fn namespace(&self) -> String {
        self.world().id("ns").to_lowercase()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world().dir().join(name)
    }

    /// The node has an address, and a route by which the kubelet takes it for its own.
    fn connect(&self) {
        for words in [
            "ip link add node type veth peer name nowhere",
            "ip link set node up",
            "ip link set nowhere up",
            &format!("ip address add {ADDRESS}/24 dev node"),
            "ip route add default dev node",
            "sysctl -qw net.ipv4.ip_forward=1",
        ] {
            command::run(self.enter().args(words.split(' ')), b"").exits(0);
        }
    }

    fn configure(&self) {
        let key = self.file("accounts.key");
        let mut make = Command::new("openssl");
        make.args(["genpkey", "-algorithm", "RSA", "-out"]);
        command::run(make.arg(key), b"").exits(0);
        let write = |name: &str, text: &str| fs::write(self.file(name), text).expect("write a file");
        write("tokens.csv", "secret,admin,admin,system:masters\n");
        let user = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "admin", "user": { "token": "secret" } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin", "namespace": self.namespace() } }],
        });
        write("kubeconfig", &user.to_string());
        for top in hierarchies() {
            let group = top.join(self.node.cgroup().trim_start_matches('/'));
            fs::create_dir_all(&group).expect("make a control group");
            // A cpuset without processors takes no process.
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(top.join(name)) {
                    fs::write(group.join(name), all).expect("fill the cpuset");
                }
            }
        }
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.node.cgroup(), "enforceNodeAllocatable": [],
            "failSwapOn": false, "makeIPTablesUtilChains": false, "resolvConf": "", "syncFrequency": "5s",
            // The disk of whoever tests may be as full as it is.
            "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%" },
            "imageGCHighThresholdPercent": 100,
            "configMapAndSecretChangeDetectionStrategy": "Watch",
        });
        write("kubelet.json", &kubelet.to_string());
    }

    fn start(&self, program: &Path, words: &[&str]) -> Child {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.file(&format!("{name}.log")));
        let log = log.expect("open the log");
        let mut command = self.enter();
        command.arg(program).args(words).current_dir(self.world().dir());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("start {name}: {e}"))
    }

    fn control(&mut self) {
        let dir = self.world().dir().to_string_lossy().into_owned();
        let data = format!("--data-dir={dir}/etcd");
        let store = [
            data.as_str(),
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ];
        self.others.push(self.start(Path::new("etcd"), &store));
        let key = format!("{dir}/accounts.key");
        let certificates = format!("--cert-dir={dir}/certificates");
        let (kubeconfig, tokens) = (format!("--kubeconfig={dir}/kubeconfig"), format!("{dir}/tokens.csv"));
        let server = [
            certificates.as_str(),
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes",
            "--authorization-mode=AlwaysAllow",
            "--allow-privileged=true",
            // Nobody knows the node's name.
            "--kubelet-preferred-address-types=InternalIP",
            &format!("--advertise-address={ADDRESS}"),
            &format!("--service-account-key-file={key}"),
            &format!("--service-account-signing-key-file={key}"),
            &format!("--token-auth-file={tokens}"),
        ];
        self.others
            .push(self.start(&self.programs.join("kube-apiserver"), &server));
        command::until("the API server is ready", || {
            self.kubectl(&["get", "--raw", "/readyz"]).code == 0
        });
        let same = [certificates.as_str(), kubeconfig.as_str(), "--leader-elect=false"];
        let accounts = format!("--service-account-private-key-file={key}");
        let manager = [&same[..], &[accounts.as_str()]].concat();
        for (name, words) in [("kube-controller-manager", &manager[..]), ("kube-scheduler", &same[..])] {
            self.others.push(self.start(&self.programs.join(name), words));
        }
    }

    fn start_kubelet(&self) {
        let dir = self.world().dir().display().to_string();
        let words = [
            format!("--config={dir}/kubelet.json"),
            format!("--kubeconfig={dir}/kubeconfig"),
            format!("--container-runtime-endpoint=unix://{dir}/c.sock"),
            format!("--root-dir={dir}/kubelet"),
            format!("--cert-dir={dir}/certificates"),
            format!("--node-ip={ADDRESS}"),
            "--container-runtime=remote".to_owned(),
            "--hostname-override=node".to_owned(),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let child = self.start(&self.programs.join("kubelet"), &words);
        *self.kubelet.lock().expect("nobody panicked with it") = Some(child);
    }

    /// Ends the kubelet by `signal`, and starts it again.
    pub fn restart_kubelet(&self, signal: Signal) {
        self.end_kubelet(signal);
        self.start_kubelet();
    }

    fn end_kubelet(&self, signal: Signal) {
        let running = self.kubelet.lock().expect("nobody panicked with it").take();
        if let Some(mut running) = running {
            end(&mut running, signal);
        }
    }

    /// The node takes pods, and there is what they need.
    fn settle(&self) {
        command::until("the node is ready", || {
            let node = self.get("node", "node");
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        });
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace() } }));
        command::until("there is an account for pods", || {
            let account = self.get("serviceaccount", "default");
            account["secrets"].as_array().is_some_and(|all| !all.is_empty())
        });
        let mut class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": CLASS }, "handler": "tested",
        });
        if self.world().runtime == Runtime::Ours {
            let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/runtimeclass.yaml");
            self.kubectl(&["apply", "-f", &ours.to_string_lossy()]).exits(0);
            class["overhead"] = self.get("runtimeclass", "kata")["overhead"].clone();
        }
        self.apply(&class);
    }

    /// `kubectl words…`, to be run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.enter();
        command.arg(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.file("kubeconfig"));
        // What it learns of the API goes with the rest.
        command.arg("--cache-dir").arg(self.file("cache"));
        command.args(words);
        command
    }

    /// As [`Cluster::command`], to its end.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> Outcome {
        command::run(&mut self.command(words), b"")
    }

    /// Makes an object, or changes it.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        let mut command = self.command(&["apply", "-f", "-"]);
        command::run(&mut command, object.to_string().as_bytes()).exits(0);
    }

    /// An object as the API server has it, `null` if there is none.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.kubectl(&["get", kind, name, "-o", "json"]).text();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until `check` holds of an object.
    #[track_caller]
    pub fn until(&self, what: &str, kind: &str, name: &str, check: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let object = self.get(kind, name);
            if check(&object) {
                return;
            }
            if begun.elapsed() > command::deadline() {
                let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).text();
                panic!("{kind} {name}: not {what} in time: {object:#}\n{events}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a pod is in `phase`.
    #[track_caller]
    pub fn until_phase(&self, name: &str, phase: &str) {
        self.until(phase, "pod", name, |pod| pod["status"]["phase"] == phase);
    }

    /// Waits until all containers of a pod are ready.
    #[track_caller]
    pub fn until_ready(&self, name: &str) {
        self.until("ready", "pod", name, is_ready);
    }

    /// A script in a pod's first container: what it prints.
    #[track_caller]
    pub fn exec(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script]).exits(0).text()
    }

    /// Removes an object, and waits until it is gone.
    #[track_caller]
    pub fn delete(&self, kind: &str, name: &str) {
        self.kubectl(&["delete", kind, name]).exits(0);
    }

    fn clear(&self) {
        // What makes pods goes first.
        for kinds in ["deployments,jobs,replicasets", "pods"] {
            let gone = self.kubectl(&["delete", kinds, "--all", "--grace-period=1", "--timeout=60s"]);
            if gone.code != 0 {
                eprintln!("delete {kinds}: {}", gone.stderr);
            }
        }
    }
}

/// Whether all containers of a pod are ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn end(process: &mut Child, signal: Signal) {
    let _ = kill(Pid::from_raw(process.id().cast_signed()), signal);
    command::end(process);
}

/// Where control groups are made.
fn hierarchies() -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let all: BTreeSet<PathBuf> = all
        .map(|entry| entry.path())
        .chain(["/sys/fs/cgroup".into()])
        .filter(|top| top.join("cgroup.procs").exists())
        .filter_map(|top| fs::canonicalize(top).ok())
        .collect();
    all.into_iter().collect()
}

/// Removes the groups below `dir`, and `dir`.
fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.clear();
        self.end_kubelet(Signal::SIGTERM);
        for process in self.others.iter_mut().rev() {
            end(process, Signal::SIGTERM);
        }
        // The kubelet makes its directory a mount of its own.
        let mut unmount = Command::new("umount");
        let _ = command::run(unmount.arg("--recursive").arg(self.file("kubelet")), b"");
        for top in hierarchies() {
            remove_groups(&top.join(self.node.cgroup().trim_start_matches('/')));
        }
        // The kubelet removes them when it looks the next time, which it will not.
        let namespace = self.namespace();
        for dir in LOGS {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(&format!("{namespace}_")) {
                    let _ = fs::remove_dir_all(entry.path());
                } else if name.contains(&format!("_{namespace}_")) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}
