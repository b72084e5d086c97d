// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A Debian with real software, made once per machine by `scripts/software-tree`. Each case has an overlay of its own on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::{Bundle, Outcome, Runtime, Wire, World, command};

/// What engines give a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A container of it: the root, a volume at `/data`, a wire at 10.77.0.2.
#[derive(Debug)]
pub struct Software<'w> {
    world: &'w World,
    bundle: Bundle,
    /// Its far end is where clients of servers in the container are.
    pub wire: Wire,
}

/// Where the tree is, or why it is not.
pub fn tree() -> Result<PathBuf, String> {
    let dir = std::env::var_os("KATA_SOFTWARE_DIR").map_or_else(
        || {
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            target
                .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
                .join("software")
        },
        PathBuf::from,
    );
    fs::canonicalize(dir.join("tree")).map_err(|_| "no Debian with real software: make software".into())
}

impl<'w> Software<'w> {
    /// A container in which bash runs `script`, and stops at the first command that fails. Not started yet.
    pub fn new(world: &'w World, tree: &Path, script: &str) -> Software<'w> {
        let path = world.dir().join("bundle");
        for dir in ["rootfs", "upper", "work"] {
            fs::create_dir_all(path.join(dir)).expect("make the bundle");
        }
        let data = world.dir().join("data");
        fs::create_dir(&data).expect("make the volume");
        let wire = Wire::plugged(world, "n");
        let mut bundle = Bundle::around(&path, "");
        bundle.spec["process"]["args"] = json!(["bash", "-euc", script]);
        let all = json!(CAPABILITIES);
        bundle.spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        bundle.spec["process"]["noNewPrivileges"] = json!(false);
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "network", "path": wire.path()}));
        bundle.mount("/data", "bind", &data.to_string_lossy(), &["rbind", "rw"]);
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            tree.display(),
            path.join("upper").display(),
            path.join("work").display()
        );
        let kind = Some("overlay");
        let options = Some(layers.as_str());
        mount(kind, &bundle.rootfs(), kind, MsFlags::empty(), options).expect("mount the tree");
        Software { world, bundle, wire }
    }

    /// The volume, on the host.
    pub fn data(&self) -> PathBuf {
        self.world.dir().join("data")
    }

    /// To its end, which must be a good one.
    #[track_caller]
    pub fn run(&self) -> Outcome {
        let outcome = self.world.run_with("c", &self.bundle, b"");
        assert_eq!(outcome.code, 0, "{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    /// As a server: clients talk to it over the wire. Ended by [`Software::stop`].
    #[track_caller]
    pub fn start(&self) {
        self.world.create("c", &self.bundle);
        self.world.oci(&["start", &self.world.id("c")]).exits(0);
    }

    /// A command of the tree on the host, at the far end of the wire.
    #[track_caller]
    pub fn client(&self, script: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.wire.far_path().display()));
        command.arg("chroot").arg(self.bundle.rootfs());
        command::run(command.args(["bash", "-euc", script]), b"")
    }

    /// A command in the container that was started.
    #[track_caller]
    pub fn exec(&self, script: &str) -> Outcome {
        self.world.oci(&["exec", &self.world.id("c"), "bash", "-euc", script])
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(&self) {
        let id = self.world.id("c");
        self.world.oci(&["kill", &id, "TERM"]).exits(0);
        self.world.until_status("c", "stopped");
        self.world.oci(&["delete", &id]).exits(0);
    }
}

impl Drop for Software<'_> {
    fn drop(&mut self) {
        // Gone already, unless a test failed.
        let _ = self.world.oci(&["delete", "--force", &self.world.id("c")]);
        let _ = umount2(&self.bundle.rootfs(), MntFlags::MNT_DETACH);
    }
}

/// What was measured of one program on one runtime.
#[derive(Debug)]
struct Figure {
    name: String,
    runtime: Runtime,
    amount: f64,
    unit: &'static str,
}

static FIGURES: Mutex<Vec<Figure>> = Mutex::new(Vec::new());

/// Notes a figure for [`table`].
pub fn note(name: &str, runtime: Runtime, amount: f64, unit: &'static str) {
    let figure = Figure {
        name: name.into(),
        runtime,
        amount,
        unit,
    };
    FIGURES.lock().expect("nobody panics with it").push(figure);
}

/// Each figure of ours beside that of the reference; empty when nothing was noted.
pub fn table() -> String {
    let figures = FIGURES.lock().expect("nobody panics with it");
    let mut names: Vec<&str> = Vec::new();
    for figure in figures.iter() {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let mut table = String::from("| software | ours | runc | ratio |\n| --- | --- | --- | --- |\n");
    for name in names {
        let of = |runtime| {
            let mut all = figures.iter();
            all.find(|figure| figure.runtime == runtime && figure.name == name)
        };
        let cell = |figure: Option<&Figure>| {
            figure.map_or_else(|| "–".to_owned(), |it| format!("{:.1} {}", it.amount, it.unit))
        };
        let (ours, runc) = (of(Runtime::Ours), of(Runtime::Reference));
        let ratio = match (ours, runc) {
            (Some(ours), Some(runc)) => format!("{:.2}", ours.amount / runc.amount),
            _ => "–".into(),
        };
        table.push_str(&format!("| {name} | {} | {} | {ratio} |\n", cell(ours), cell(runc)));
    }
    table
}
