// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is in `deploy/`: the installer, on directories that stand for nodes; and the chart and manifests, where there are tools to render
//! and check them (`scripts/deploy-tools` fetches them).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// A node's root directory, what is to be installed there, and commands that note how they were called.
struct Node {
    top: tempfile::TempDir,
}

const ENGINES: [(&str, &str); 5] = [
    (
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"",
    ),
    ("etc/crio/crio.conf", "[crio]\n"),
    (
        "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "version = 3\nroot = \"/x\"\n",
    ),
    ("var/lib/rancher/rke2/agent/etc/containerd/config.toml", "version = 2\n"),
    (
        "var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl",
        "{{ template \"base\" . }}\n# the admin's\n",
    ),
];

impl Node {
    /// None, and a line that says why, where it cannot be made.
    fn new() -> Option<Node> {
        let busybox = Path::new("/bin/busybox");
        if !nix::unistd::geteuid().is_root() || !busybox.exists() {
            eprintln!("skipped: the installer's tests need root and busybox-static");
            return None;
        }
        let node = Node {
            top: tempfile::tempdir().expect("temporary files"),
        };
        for dir in [
            "host/bin",
            "host/usr/bin",
            "from/bin",
            "from/libexec/kata",
            "from/guest/abc",
            "tools",
        ] {
            fs::create_dir_all(node.at(dir)).expect("a file of the test");
        }
        fs::copy(busybox, node.at("host/bin/sh")).expect("a file of the test");
        node.program("host/usr/bin/qemu-system-x86_64", "");
        node.program("from/bin/kata", "echo kata 1");
        fs::write(node.at("from/libexec/kata/kata-agent"), "agent").expect("a file of the test");
        fs::write(node.at("from/guest/abc/vmlinux"), "kernel").expect("a file of the test");
        symlink("abc", node.at("from/guest/default")).expect("a file of the test");
        for tool in ["nsenter", "kubectl"] {
            let log = node.at("calls");
            // `is-active` is true for one engine only.
            let script = format!(
                "echo \"{tool} $*\" >>{}\ncase \"$*\" in *is-active*containerd|*is-active*k3s) exit 0;; *is-active*) exit 3;; esac\n\
                 [ -z \"$ANSWER\" ] || echo \"$ANSWER\"",
                log.display()
            );
            node.program(&format!("tools/{tool}"), &script);
        }
        Some(node)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    fn program(&self, path: &str, script: &str) {
        fs::write(self.at(path), format!("#!/bin/sh\n{script}\n")).expect("a file of the test");
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).expect("a file of the test");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at("host").join(path);
        fs::create_dir_all(path.parent().expect("as it was written")).expect("a file of the test");
        fs::write(path, text).expect("a file of the test");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at("host").join(path)).unwrap_or_default()
    }

    fn command(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = Command::new(deploy().join("installer/kata-deploy"));
        let path = format!(
            "{}:{}",
            self.at("tools").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        command
            .arg(verb)
            .arg("--host")
            .arg(self.at("host"))
            .arg("--from")
            .arg(self.at("from"));
        command
            .args(words)
            .env("PATH", path)
            .env("NODE_NAME", "n1")
            .env_remove("ANSWER");
        command
    }

    #[track_caller]
    fn runs(&self, verb: &str) -> String {
        let output = self.command(verb, &[]).output().expect("run a program");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    #[track_caller]
    fn refuses(&self, verb: &str, words: &[&str], why: &str) {
        let output = self.command(verb, words).output().expect("run a program");
        assert!(
            !output.status.success() && said(&output).contains(why),
            "{why}: {}",
            said(&output)
        );
    }

    fn calls(&self) -> String {
        let calls = fs::read_to_string(self.at("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.at("calls"));
        calls
    }

    /// Every file with its mode, and its content or where it leads to.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let (mut found, mut dirs) = (BTreeMap::new(), vec![self.at("host")]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("a file of the test") {
                let path = entry.expect("as it was written").path();
                let meta = fs::symlink_metadata(&path).expect("a file of the test");
                let content = if meta.is_dir() {
                    dirs.push(path.clone());
                    Vec::new()
                } else if meta.is_symlink() {
                    fs::read_link(&path)
                        .expect("a file of the test")
                        .into_os_string()
                        .into_encoded_bytes()
                } else {
                    fs::read(&path).expect("a file of the test")
                };
                found.insert(path, (meta.mode(), content));
            }
        }
        found
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_was_installed_is_configured_once_and_can_be_removed() {
    let Some(node) = Node::new() else { return };
    for (path, text) in ENGINES {
        node.write(path, text);
    }
    let before = node.tree();
    node.runs("install");
    let installed = node.tree();
    assert_eq!(
        fs::read_link(node.at("host/usr/local/bin/containerd-shim-kata-v2")).expect("a file of the test"),
        Path::new("/opt/kata/bin/containerd-shim-kata-v2")
    );
    assert_eq!(node.read("var/lib/kata/guest/default/vmlinux"), "kernel");
    for (path, table) in [
        (
            "etc/containerd/config.toml",
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]",
        ),
        ("etc/crio/crio.conf.d/50-kata.conf", "[crio.runtime.runtimes.kata-qemu]"),
        (
            "var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl",
            "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.kata]",
        ),
        (
            "var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl",
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata-qemu]",
        ),
    ] {
        assert!(node.read(path).contains(table), "{path}: {}", node.read(path));
    }
    assert!(
        node.read("var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl")
            .starts_with("{{ template \"base\" . }}\n")
    );
    let calls = node.calls();
    assert!(
        calls.contains("-- systemctl restart containerd\n") && calls.contains("-- systemctl restart k3s\n"),
        "{calls}"
    );
    assert!(!calls.contains("restart crio"), "it does not run: {calls}");
    assert!(
        calls.contains("kubectl label --overwrite node n1 katacontainers.io/kata-runtime=true"),
        "{calls}"
    );

    understood(&node.at("host/etc/containerd/config.toml"));

    // Once more, the same: nobody is disturbed.
    node.runs("install");
    assert_eq!(node.tree(), installed);
    let calls = node.calls();
    assert!(!calls.contains("restart"), "{calls}");

    // What the administrator adds meanwhile stays.
    let config = node.at("host/etc/containerd/config.toml");
    let text = fs::read_to_string(&config).expect("a file of the test");
    fs::write(&config, format!("{text}# after\n")).expect("a file of the test");
    node.runs("remove");
    let calls = node.calls();
    assert!(
        calls.contains("restart containerd") && calls.contains("node n1 katacontainers.io/kata-runtime-"),
        "{calls}"
    );
    let config = node.read("etc/containerd/config.toml");
    assert_eq!(config, format!("{}# after\n", ENGINES[0].1));
    node.write("etc/containerd/config.toml", ENGINES[0].1);
    assert_eq!(node.tree(), before);
    assert!(node.runs("remove").contains("not installed"));
}

/// containerd finds our runtimes in its configuration.
fn understood(config: &Path) {
    let Ok(output) = Command::new("containerd")
        .arg("--config")
        .arg(config)
        .args(["config", "dump"])
        .output()
    else {
        eprintln!("skipped: containerd is not installed");
        return;
    };
    let text = said(&output);
    assert!(
        output.status.success() && text.contains("sandbox_image = \"pause\""),
        "{text}"
    );
    for handler in ["kata", "kata-qemu"] {
        assert!(text.contains(&format!(".containerd.runtimes.{handler}]\n")), "{text}");
        assert!(
            text.contains(&format!("runtime_type = \"io.containerd.{handler}.v2\"\n")),
            "{text}"
        );
    }
}

#[test]
fn a_newer_one_takes_the_place_of_an_older() {
    let Some(node) = Node::new() else { return };
    node.write("etc/containerd/other", "");
    let before = node.tree();
    node.runs("install");
    assert!(node.read("etc/containerd/config.toml").starts_with("version = 2\n"));
    node.program("from/bin/kata", "echo kata 2");
    fs::rename(node.at("from/guest/abc"), node.at("from/guest/def")).expect("a file of the test");
    fs::remove_file(node.at("from/guest/default")).expect("a file of the test");
    symlink("def", node.at("from/guest/default")).expect("a file of the test");
    node.calls();
    node.runs("install");
    assert!(node.read("opt/kata/bin/kata").contains("kata 2"));
    assert_eq!(
        fs::read_link(node.at("host/var/lib/kata/guest/default")).expect("a file of the test"),
        Path::new("def")
    );
    assert!(!node.calls().contains("restart"), "the configuration is the same");
    node.runs("remove");
    assert_eq!(node.tree(), before);
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let Some(node) = Node::new() else { return };
    node.refuses("install", &[], "--engine");
    node.refuses("install", &["--engine", "docker"], "docker");
    node.refuses("install", &["--host", "/no/such"], "/no/such");
    node.refuses("frob", &[], "usage");
    node.write("etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n");
    let foreign = node.tree();
    node.refuses("install", &[], "version 1");
    node.runs("remove");
    assert_eq!(node.tree(), foreign);
    let own = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n";
    node.write("etc/containerd/config.toml", own);
    node.refuses("install", &[], "runtime kata already");
    assert_eq!(node.read("etc/containerd/config.toml"), own);
    node.runs("remove");
    node.write("etc/containerd/config.toml", "");
    node.write("usr/local/bin/kata-runtime", "somebody's");
    node.refuses("install", &[], "not of kata-deploy");
    node.runs("remove");
    assert_eq!(node.read("usr/local/bin/kata-runtime"), "somebody's");
    fs::remove_file(node.at("host/usr/bin/qemu-system-x86_64")).expect("a file of the test");
    node.refuses("install", &[], "no qemu-system-x86_64");
}

#[test]
fn sandboxes_that_run_keep_it_there() {
    let Some(node) = Node::new() else { return };
    node.write("etc/containerd/config.toml", "version = 2\n");
    let before = node.tree();
    node.runs("install");
    fs::create_dir_all(node.at("host/run/containerd/kata/k8s.io/@pod1")).expect("a file of the test");
    node.refuses("remove", &[], "pod1");
    assert!(node.read("opt/kata/bin/kata").contains("kata 1"));
    let output = node.command("remove", &["--force"]).output().expect("run a program");
    assert!(output.status.success(), "{}", said(&output));
    fs::remove_dir_all(node.at("host/run")).expect("a file of the test");
    assert_eq!(node.tree(), before);
}

#[test]
fn it_goes_with_its_daemonset_and_with_nothing_else() {
    let Some(node) = Node::new() else { return };
    node.write("etc/containerd/config.toml", "version = 2\n");
    let before = node.tree();
    for (answer, stays) in [("ds1", true), ("ds1 2026-11-25T00:00:00Z", false), ("", false)] {
        let mut command = node.command("run", &[]);
        command
            .env("POD_NAMESPACE", "ns")
            .env("DAEMONSET", "ds1")
            .env("ANSWER", answer);
        let mut child = command.spawn().expect("run a program");
        let label = "kata-runtime=true";
        while !fs::read_to_string(node.at("calls")).unwrap_or_default().contains(label) {
            assert!(child.try_wait().expect("run a program").is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("as it was written");
        assert!(child.wait().expect("run a program").success());
        let calls = node.calls();
        assert!(calls.contains("kubectl --namespace ns get daemonset ds1"), "{calls}");
        assert_eq!(node.at("host/opt/kata/installed").exists(), stays, "{answer:?}");
    }
    assert_eq!(node.tree(), before);
}

/// A tool of `scripts/deploy-tools`, or of the path; none, and a line that says so, where it is not.
fn tool(name: &str) -> Option<PathBuf> {
    let built = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = built.unwrap_or_else(|| deploy().join("../target")).join("tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(built)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is missing (scripts/deploy-tools)");
    }
    found
}

fn chart() -> PathBuf {
    deploy().join("helm/kata")
}

/// The chart as it would be installed with these settings.
#[track_caller]
fn rendered(helm: &Path, settings: &[&str]) -> String {
    let mut command = Command::new(helm);
    command
        .args(["template", "r1"])
        .arg(chart())
        .args(["--namespace", "kata-system"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().expect("run a program");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).expect("as it was written")
}

#[test]
fn the_chart_renders_as_its_values_say() {
    let Some(helm) = tool("helm") else { return };
    let output = Command::new(&helm)
        .args(["lint", "--strict"])
        .arg(chart())
        .output()
        .expect("run a program");
    assert!(output.status.success(), "{}", said(&output));
    let text = rendered(&helm, &[]);
    for (kind, count) in [
        ("RuntimeClass", 2),
        ("DaemonSet", 2),
        ("Job", 1),
        ("ClusterRole", 1),
        ("ServiceAccount", 1),
    ] {
        let found = text.lines().filter(|line| *line == format!("kind: {kind}")).count();
        assert_eq!(found, count, "{kind}: {text}");
    }
    let version = env!("CARGO_PKG_VERSION");
    for part in [
        "handler: kata-qemu\n",
        "    memory: \"170Mi\"\n",
        "katacontainers.io/kata-runtime: \"true\"",
        &format!("image: localhost/kata-deploy:{version}\n"),
        "command: [/payload/bin/kata, monitor, --listen, \"0.0.0.0:8090\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("args:"), "{text}");
    let text = rendered(
        &helm,
        &[
            "engines={crio,k3s}",
            "monitor.enabled=false",
            "runtimeClasses.names={kata}",
            "runtimeClasses.schedule=false",
            "image.tag=x",
        ],
    );
    for part in [
        "- --engine=crio\n",
        "- --engine=k3s\n",
        "image: localhost/kata-deploy:x\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["kata-qemu\n", "scheduling:", "/payload/bin/kata"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    for wrong in ["engines={docker}", "monitor.port=0", "monitor.prot=1"] {
        let output = Command::new(&helm)
            .arg("template")
            .arg(chart())
            .args(["--set", wrong])
            .output()
            .expect("run a program");
        assert!(
            !output.status.success() && said(&output).contains("schema"),
            "{wrong}: {}",
            said(&output)
        );
    }
}

/// An option of the installer or a value that the chart names is one that there is.
#[test]
fn the_chart_and_the_installer_agree() {
    let script = fs::read_to_string(deploy().join("installer/kata-deploy")).expect("a file of the test");
    let daemon = fs::read_to_string(chart().join("templates/installer.yaml")).expect("a file of the test");
    for word in ["NODE_NAME", "POD_NAMESPACE", "DAEMONSET", "--engine", "--host"] {
        assert!(script.contains(word) && daemon.contains(word), "{word}");
    }
    let schema: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).expect("it can be read"))
            .expect("it is JSON");
    let engines: Vec<_> = schema["properties"]["engines"]["items"]["enum"]
        .as_array()
        .expect("as it was written")
        .iter()
        .collect();
    assert_eq!(engines.len(), 4);
    for engine in engines {
        assert!(script.contains(engine.as_str().expect("as it was written")), "{engine}");
    }
    let names = "HANDLERS=(kata kata-qemu)";
    assert!(script.contains(names), "{names}");
    let manifest = fs::read_to_string(deploy().join("kubernetes/runtimeclass.yaml")).expect("a file of the test");
    let values = fs::read_to_string(chart().join("values.yaml")).expect("a file of the test");
    for text in [&manifest, &values] {
        assert!(
            text.contains("memory: 170Mi") && text.contains("cpu: 10m") && text.contains("kata-qemu"),
            "{text}"
        );
    }
    assert!(
        values.contains("appVersion")
            && fs::read_to_string(chart().join("Chart.yaml"))
                .expect("a file of the test")
                .contains(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn kubernetes_takes_what_is_rendered() {
    let (Some(helm), Some(validate)) = (tool("helm"), tool("kubernetes-validate")) else {
        return;
    };
    let place = tempfile::tempdir().expect("temporary files");
    let all = [
        "engines={containerd}",
        "monitor.resources=null",
        "imagePullSecrets[0].name=s",
    ];
    let mut checked = Vec::new();
    for (name, settings) in [("plain", &[][..]), ("all", &all)] {
        let path = place.path().join(format!("{name}.yaml"));
        fs::write(&path, rendered(&helm, settings)).expect("a file of the test");
        checked.push(path);
    }
    checked.push(deploy().join("kubernetes/runtimeclass.yaml"));
    for path in &checked {
        let output = Command::new(&validate)
            .arg("--strict")
            .arg(path)
            .output()
            .expect("run a program");
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            said(&output).contains("passed for resource runtimeclass/kata"),
            "{}",
            said(&output)
        );
    }
    // The tool itself: it does find what is wrong.
    let wrong = fs::read_to_string(&checked[0])
        .expect("a file of the test")
        .replace("hostPID:", "hostPIDS:");
    fs::write(&checked[0], wrong).expect("a file of the test");
    let output = Command::new(&validate)
        .arg("--strict")
        .arg(&checked[0])
        .output()
        .expect("run a program");
    assert!(!output.status.success(), "{}", said(&output));
}
