// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Machines that begin as copies of a frozen guest: fresh in all that must not be shared, whole in all that they can do, and
//! booted instead when there is no template, or a broken one. Each case but one has a store of templates of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::{Bundle, Outcome, World, command, ours, world};

/// Copies that live at once.
const CLONES: usize = 8;

pub fn cases() -> Vec<Trial> {
    vec![
        ours("template::copies_are_fresh_and_whole", copies),
        ours("template::the_hosts_own_is_used", |w| {
            let mut build = Command::new(world::binaries().join("kata"));
            command::run(build.args(["guest", "template", "build"]), b"").exits(0);
            assert!(!booted(&create_by(w.runtime(), w, "c", &w.bundle("c", "true"))));
        }),
        ours("template::off_by_annotation", |w| {
            build(w).exits(0);
            let mut bundle = w.bundle("c", "true");
            bundle.set(
                "/annotations",
                json!({"io.katacontainers.config.hypervisor.enable_template": "false"}),
            );
            assert!(booted(&create(w, "c", &bundle)));
        }),
        ours("template::made_in_the_background_on_first_use", |w| {
            assert!(booted(&create(w, "one", &w.bundle("one", "true"))));
            command::until("there is a template", || keys(w).len() == 1);
            assert!(!booted(&create(w, "two", &w.bundle("two", "true"))));
        }),
        ours("template::one_per_machine_and_made_once", |w| {
            build(w).exits(0);
            assert!(build(w).exits(0).text().starts_with("up to date"));
            let mut bundle = w.bundle("c", "true");
            bundle.set("/linux/resources", json!({"memory": {"limit": 64 << 20}}));
            assert!(booted(&create(w, "c", &bundle)), "another size");
            command::until("there are two", || keys(w).len() == 2);
            command::run(tool(w).arg("ls"), b"").exits(0);
            command::run(tool(w).args(["rm", "--all"]), b"").exits(0);
            assert!(keys(w).is_empty());
        }),
        ours("template::cut_memory_boots", |w| {
            broken(w, |dir| cut(&dir.join("memory")));
        }),
        ours("template::cut_state_boots", |w| {
            broken(w, |dir| cut(&dir.join("state")));
        }),
        ours("template::other_manifest_boots", |w| {
            broken(w, |dir| fs::write(dir.join("manifest.json"), "{}").expect("write"));
        }),
        ours("template::state_that_is_none_boots", |w| {
            // With a manifest that agrees: only the hypervisor can tell.
            broken(w, |dir| {
                let state = fs::read(dir.join("state")).expect("read");
                let text = fs::read_to_string(dir.join("manifest.json")).expect("read");
                let manifest: Value = serde_json::from_str(&text).expect("JSON");
                let sum = |file: &str| {
                    let outcome = command::run(Command::new("sha256sum").arg(dir.join(file)), b"");
                    outcome.text().split(' ').next().unwrap_or_default().to_owned()
                };
                fs::write(dir.join("state"), &state[..state.len() / 2]).expect("write");
                let manifest = text.replace(manifest["state"]["sha256"].as_str().expect("a sum"), &sum("state"));
                fs::write(dir.join("manifest.json"), manifest).expect("write");
            });
        }),
    ]
}

/// The store of this world.
pub fn store(w: &World) -> PathBuf {
    w.dir().join("templates")
}

pub fn keys(w: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(store(w)).into_iter().flatten().flatten();
    let keys = entries.filter(|entry| entry.file_name().len() == 64);
    keys.map(|entry| entry.path()).collect()
}

/// `kata guest template` on this world's store.
pub fn tool(w: &World) -> Command {
    let mut command = Command::new(world::binaries().join("kata"));
    command.args(["guest", "template"]).env("KATA_TEMPLATE_DIR", store(w));
    command
}

pub fn build(w: &World) -> Outcome {
    command::run(tool(w).arg("build"), b"")
}

/// The runtime on this world's store, logging to `<world>/log`.
pub fn runtime(w: &World) -> Command {
    let mut command = w.runtime();
    command.env("KATA_TEMPLATE_DIR", store(w));
    command.arg("--log").arg(w.dir().join("log"));
    command
}

/// Creates a container, deletes it, and returns its saved state.
pub fn create(w: &World, name: &str, bundle: &Bundle) -> Value {
    create_by(runtime(w), w, name, bundle)
}

fn create_by(mut command: Command, w: &World, name: &str, bundle: &Bundle) -> Value {
    command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id(name));
    command::run(&mut command, b"").exits(0);
    let text = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
    w.oci(&["delete", "--force", &w.id(name)]).exits(0);
    serde_json::from_slice(&text).expect("JSON")
}

/// What the runtimes of this world have logged.
pub fn log(w: &World) -> String {
    fs::read_to_string(w.dir().join("log")).unwrap_or_default()
}

/// Whether the kernel was booted.
pub fn booted(state: &Value) -> bool {
    let spans = state["spans"].as_array().expect("spans");
    spans.iter().any(|span| span["name"] == "kernel")
}

fn cut(path: &Path) {
    let file = fs::File::options().write(true).open(path).expect("open");
    file.set_len(4096).expect("cut");
}

/// A template that `spoil` has spoilt: the machine boots and one line says why; the next template is whole again.
pub fn broken(w: &World, spoil: impl Fn(&Path)) {
    build(w).exits(0);
    let key = keys(w).remove(0);
    spoil(&key);
    assert!(booted(&create(w, "c", &w.bundle("c", "true"))));
    let log = log(w);
    let told: Vec<&str> = log.lines().filter(|line| line.contains("booting")).collect();
    assert_eq!(told.len(), 1, "one line says so: {log}");
    assert!(told[0].contains(" warning "), "{told:?}");
    build(w).exits(0);
    assert!(!booted(&create(w, "c", &w.bundle("c", "true"))));
}

fn start(w: &World, name: &str, script: &str) -> Child {
    let mut command = runtime(w);
    command
        .args(["run", "--bundle"])
        .arg(&w.bundle(name, script).path)
        .arg(w.id(name));
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("spawn")
}

fn copies(w: &World) {
    build(w).exits(0);
    // Random bytes, boot id, a name in memory, the time; then it waits to be executed in, through the shared files.
    let script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id; mktemp -u; date +%s; \
                  echo ready > /state; while [ ! -e /go ]; do sleep 0.1; done; echo end";
    let names: Vec<String> = (0..CLONES).map(|n| format!("c{n}")).collect();
    let children: Vec<Child> = names.iter().map(|name| start(w, name, script)).collect();
    for name in &names {
        let shared = w.dir().join(format!("bundle-{name}/rootfs/state"));
        command::until(&format!("{name} has come up"), || shared.exists());
        let state = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
        assert!(
            !booted(&serde_json::from_slice(&state).expect("JSON")),
            "{name} was booted"
        );
    }
    let mut executed = BTreeSet::new();
    for name in &names {
        let outcome = w.oci(&["exec", &w.id(name), "sh", "-c", "head -c 16 /dev/urandom | md5sum"]);
        executed.insert(outcome.exits(0).text());
        // The container may end, and this with it, before this has ended by itself.
        w.oci(&["exec", &w.id(name), "touch", "/go"]);
    }
    assert_eq!(executed.len(), CLONES, "{executed:?}");
    let mut seen: [BTreeSet<String>; 3] = Default::default();
    for mut child in children {
        let mut text = String::new();
        let mut out = child.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut out, &mut text).expect("read");
        assert_eq!(command::end(&mut child), 0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        seen[0].insert(lines[0].into());
        seen[1].insert(lines[1].into());
        seen[2].insert(lines[2].into());
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        let told: u64 = lines[3].parse().expect("seconds");
        assert!(
            now.as_secs().abs_diff(told) < command::deadline().as_secs(),
            "{told} is not now"
        );
    }
    for (what, seen) in ["random bytes", "boot ids", "random names"].iter().zip(&seen) {
        assert_eq!(seen.len(), CLONES, "{what} differ: {seen:?}");
    }
    for name in &names {
        w.oci(&["delete", "--force", &w.id(name)]);
    }
}
