// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What goes wrong while a template is written or a machine begins as its copy: a broken one is never used, the start boots and
//! says so once, the next one that makes a template removes the rest.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm_tests::{World, command, leak, ours};

use crate::crash;
use crate::template::{booted, broken, build, create, keys, log, runtime, store, tool};

/// Room for the first pages of a guest, not for all.
const SMALL_DISK: &str = "size=24m";

pub fn cases() -> Vec<Trial> {
    let mut cases = vec![
        ours("template::flipped_bit_of_memory_boots", |w| {
            broken(w, |dir| flip(&dir.join("memory")));
        }),
        ours("template::flipped_bit_of_pages_boots", |w| {
            broken(w, |dir| flip(&dir.join("pages")));
        }),
        ours("template::lost_memory_boots", |w| {
            broken(w, |dir| fs::remove_file(dir.join("memory")).expect("remove"));
        }),
        ours("template::killed_builders_leave_nothing_that_is_used", killed_anywhere),
        ours("template::killed_writers_leave_nothing_that_is_used", killed_writing),
        ours("template::builders_at_once_make_one", at_once),
        ours("template::full_disk_boots_and_is_not_tried_again", full),
    ];
    for role in ["qemu", "device", "monitor", "runtime"] {
        let name = format!("template::{role}_killed_while_copying");
        cases.push(ours(&name, move |w| killed_copying(w, role)));
    }
    cases
}

/// Changes one bit in the middle.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let at = file.metadata().expect("look").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 4], at).expect("write");
}

/// Where a template is made.
fn fresh(w: &World) -> PathBuf {
    store(w).join(".new")
}

/// The hypervisor of a builder on this world's store: it works in the unfinished template.
fn hypervisors(w: &World) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid
            && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == fresh(w))
        {
            found.push(pid);
        }
    }
    found
}

fn builder(w: &World) -> Child {
    let mut command = tool(w);
    command.args(["build", "--force"]).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().expect("spawn")
}

fn strike(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a pid")
}

/// After a builder has died: its hypervisor goes with it, and whatever is there is whole. A machine begins with it, or boots
/// without a word.
fn buried(w: &World) {
    command::until("its hypervisor has ended", || hypervisors(w).is_empty());
    assert!(keys(w).len() <= 1);
    create(w, "c", &w.bundle("c", "true"));
    assert!(!log(w).contains("template"), "{}", log(w));
}

/// The next builder makes a whole one, and nothing else is in the store then.
fn recovered(w: &World) {
    command::until("nobody makes one", || hypervisors(w).is_empty());
    build(w).exits(0);
    let entries = fs::read_dir(store(w)).expect("list").flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name.len() != 64 && name != ".lock" && name != "build.log");
    assert!(names.is_empty(), "{names:?}");
    assert!(!booted(&create(w, "c", &w.bundle("c", "true"))));
}

fn killed_anywhere(w: &World) {
    for delay in [0, 300, 1200, 1600, 1800] {
        for hypervisor in [false, true] {
            let mut builder = builder(w);
            command::until("its hypervisor runs", || {
                !hypervisors(w).is_empty() || builder.try_wait().expect("wait").is_some()
            });
            thread::sleep(Duration::from_millis(delay));
            strike(if hypervisor {
                hypervisors(w)
            } else {
                vec![pid(&builder)]
            });
            command::end(&mut builder);
            buried(w);
        }
    }
    recovered(w);
}

fn killed_writing(w: &World) {
    for file in ["state", "memory", "pages", "manifest.json"] {
        let path = fresh(w).join(file);
        let mut builder = builder(w);
        // Without a pause: some of these moments are short.
        while !path.exists() && builder.try_wait().expect("wait").is_none() {}
        strike([pid(&builder)]);
        command::end(&mut builder);
        buried(w);
    }
    recovered(w);
}

fn at_once(w: &World) {
    let builders: Vec<Child> = (0..3)
        .map(|_| {
            let mut command = tool(w);
            command.arg("build").stdout(Stdio::piped());
            command.spawn().expect("spawn")
        })
        .collect();
    let mut said = Vec::new();
    for mut builder in builders {
        let mut out = builder.stdout.take().expect("piped");
        assert_eq!(command::end(&mut builder), 0);
        said.push(std::io::read_to_string(&mut out).expect("read"));
    }
    let built = said.iter().filter(|text| text.starts_with("built ")).count();
    let found = said.iter().filter(|text| text.starts_with("up to date")).count();
    assert_eq!((built, found), (1, 2), "{said:?}");
    assert_eq!(keys(w).len(), 1);
    assert!(!booted(&create(w, "c", &w.bundle("c", "true"))));
}

/// A small disk of its own for the store; goes with its owner.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Disk {
        fs::create_dir(&at).expect("create");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(&at);
        command::run(&mut mount, b"").exits(0);
        Disk(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn full(w: &World) {
    let _disk = Disk::mount(store(w));
    build(w).refuses(&["memory", "No space left on device"]);
    assert!(!fresh(w).exists() && keys(w).is_empty());
    assert!(booted(&create(w, "one", &w.bundle("one", "true"))));
    let told = || fs::read_to_string(store(w).join("build.log")).unwrap_or_default();
    command::until("the builder in the background has given up", || {
        store(w).join(".failed").exists()
    });
    assert!(!fresh(w).exists() && keys(w).is_empty());
    assert!(booted(&create(w, "two", &w.bundle("two", "true"))));
    assert_eq!(told().lines().count(), 1, "tried once: {}", told());
    assert!(told().contains("No space left on device"), "{}", told());
    assert!(!log(w).contains("template"), "{}", log(w));
}

fn killed_copying(w: &World, role: &str) {
    build(w).exits(0);
    let bundle = w.bundle("c", "true");
    let mut struck = 0;
    for delay in [0, 30, 100, 250] {
        let before = log(w).len();
        let mut command = runtime(w);
        command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("spawn");
        let mut victims = Vec::new();
        while victims.is_empty() && child.try_wait().expect("wait").is_none() {
            victims = crash::players(w, role);
        }
        thread::sleep(Duration::from_millis(delay));
        strike(victims);
        let code = command::end(&mut child);
        if code == 0 {
            w.oci(&["state", &w.id("c")]).exits(0);
        }
        w.oci(&["delete", "--force", &w.id("c")]).exits(0);
        leak::check(w);
        let log = log(w);
        let told = log[before..].lines().filter(|line| line.contains("booting")).count();
        assert!(told <= 1, "{delay} ms: {log}");
        if told == 1 || code != 0 {
            struck += 1;
        }
        if matches!(role, "qemu" | "device") && told == 1 {
            assert_eq!(code, 0, "{delay} ms: it was booted instead: {log}");
        }
    }
    assert!(struck > 0, "nobody noticed anything");
    // It was not the template's fault.
    assert_eq!(keys(w).len(), 1);
    assert!(!booted(&create(w, "c", &w.bundle("c", "true"))));
}
