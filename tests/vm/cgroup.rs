// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The host's control groups of a container: where the processes are while it lives, and what stays afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use vm_tests::{Bundle, Runtime, World, both, ours};

use crate::crash::players;

pub fn cases() -> Vec<Trial> {
    vec![
        both("cgroup::absolute_path", absolute),
        both("cgroup::relative_path", relative),
        both("cgroup::no_path", none),
        both("cgroup::a_group_that_was_there_goes_and_its_parent_stays", foreign),
        both("cgroup::a_failed_create_leaves_none", failed),
        ours("cgroup::an_exec_is_in_it", exec),
        ours("cgroup::scope_of_systemd", scope),
        ours("cgroup::kill_of_all_processes_leaves_none", killed),
        ours("cgroup::foreground_run", foreground),
        ours("cgroup::nonsense_is_refused", nonsense),
    ]
}

/// The groups of a process: the hierarchy's controllers and the path in it.
fn groups(pid: i32) -> Vec<(String, PathBuf)> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let lines = text.lines().map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let name = fields.next().expect("controllers").to_owned();
        (name, PathBuf::from(fields.next().expect("a path")))
    });
    lines.collect()
}

/// Where `path`, relative to our own groups, is in each hierarchy. In a unified one it stands beside ours.
fn below_ours(path: &str) -> Vec<(String, PathBuf)> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let own = groups(i32::try_from(std::process::id()).expect("a pid"));
    own.into_iter()
        .map(|(name, group)| {
            let top = if unified && name.is_empty() {
                group.parent()
            } else {
                None
            };
            let group = top.map_or_else(|| group.clone(), Path::to_owned).join(path);
            (name, group)
        })
        .collect()
}

/// The same path in each hierarchy.
fn everywhere(path: &str) -> Vec<(String, PathBuf)> {
    below_ours(path)
        .into_iter()
        .map(|(name, _)| (name, path.into()))
        .collect()
}

/// All processes that the host has for the container.
fn processes(w: &World, pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    if w.runtime == Runtime::Ours {
        for role in ["monitor", "device", "qemu", "shim"] {
            let found = players(w, role);
            assert!(!found.is_empty(), "there is a {role} process");
            all.extend(found);
        }
    }
    all
}

/// Directories of this world's groups, without the root of each hierarchy.
fn dirs(w: &World) -> Vec<PathBuf> {
    let marker = w.id("");
    let mut found = Vec::new();
    let mut unseen = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = unseen.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.path().to_string_lossy().contains(&marker) {
                    found.push(entry.path());
                }
                unseen.push(entry.path());
            }
        }
    }
    found
}

/// Groups above the container's stay: runtimes leave them to whoever made them, here to us.
fn clear(w: &World) {
    let mut rest = dirs(w);
    rest.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    for dir in rest {
        fs::remove_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }
}

fn placed(w: &World, path: Option<&str>, want: &[(String, PathBuf)]) {
    let mut bundle = w.bundle("c", "sleep 1000");
    if let Some(path) = path {
        bundle.set("/linux/cgroupsPath", json!(path));
    }
    let pid = w.create("c", &bundle);
    for process in processes(w, pid) {
        assert_eq!(groups(process), want, "groups of process {process}");
    }
    w.oci(&["start", &w.id("c")]).exits(0);
    for process in processes(w, pid) {
        assert_eq!(groups(process), want, "groups of process {process} after the start");
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    let leaf = want[0].1.file_name().expect("has a name");
    for dir in dirs(w) {
        assert_ne!(dir.file_name(), Some(leaf), "{} is left", dir.display());
    }
    clear(w);
}

fn absolute(w: &World) {
    let path = format!("/{}/inner", w.id("a"));
    placed(w, Some(&path), &everywhere(&path));
}

fn relative(w: &World) {
    let path = format!("{}/inner", w.id("r"));
    placed(w, Some(&format!("../{path}")), &below_ours(&path));
}

fn none(w: &World) {
    placed(w, None, &below_ours(&w.id("c")));
}

/// An engine that makes the group itself keeps what is above it.
fn foreign(w: &World) {
    let path = format!("{}/inner", w.id("f"));
    let above = Path::new("/sys/fs/cgroup/pids").join(w.id("f"));
    if !Path::new("/sys/fs/cgroup/pids/tasks").exists() {
        return;
    }
    fs::create_dir_all(above.join("inner")).expect("make a group");
    placed_and_kept(w, &path, &above);
    clear(w);
}

fn placed_and_kept(w: &World, path: &str, above: &Path) {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set("/linux/cgroupsPath", json!(format!("/{path}")));
    w.create("c", &bundle);
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert!(above.exists(), "{} stays", above.display());
    assert!(!above.join("inner").exists(), "the container's goes");
}

fn failed(w: &World) {
    let mut bundle = w.bundle("c", "true");
    bundle.mount("/mnt", "bind", "/no/such/directory", &["bind"]);
    let create = ["create", "--bundle", &bundle.path.to_string_lossy(), &w.id("c")];
    let outcome = w.oci(&create);
    assert_ne!(outcome.code, 0, "there is no such directory");
    assert_eq!(dirs(w), Vec::<PathBuf>::new());
}

fn started(w: &World, path: &str) -> (Bundle, i32) {
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set("/linux/cgroupsPath", json!(path));
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    (bundle, pid)
}

fn exec(w: &World) {
    let path = format!("/{}", w.id("e"));
    started(w, &path);
    let pid_file = w.dir().join("exec.pid");
    let file = pid_file.to_string_lossy().into_owned();
    let line = ["exec", "--detach", "--pid-file", &file, &w.id("c"), "sleep", "1000"];
    w.oci(&line).exits(0);
    let text = fs::read_to_string(&pid_file).expect("exec wrote the pid file");
    assert_eq!(groups(text.parse().expect("a pid")), everywhere(&path));
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_eq!(dirs(w), Vec::<PathBuf>::new());
}

fn scope(w: &World) {
    let slice = w.id("s").replace('-', "");
    let mut bundle = w.bundle("c", "sleep 1000");
    bundle.set(
        "/linux/cgroupsPath",
        json!(format!("{slice}-b.slice:pre:{}", w.id("s"))),
    );
    let pid_file = w.dir().join("c.pid");
    let (pid, path) = (pid_file.to_string_lossy(), bundle.path.to_string_lossy());
    let line = [
        "--systemd-cgroup",
        "create",
        "--bundle",
        &path,
        "--pid-file",
        &pid,
        &w.id("c"),
    ];
    w.oci(&line).exits(0);
    let pid = fs::read_to_string(&pid_file).expect("create wrote the pid file");
    let slices = format!("/{slice}.slice/{slice}-b.slice");
    let want = format!("{slices}/pre-{}.scope", w.id("s"));
    assert_eq!(groups(pid.parse().expect("a pid")), everywhere(&want));
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_eq!(dirs(w), Vec::<PathBuf>::new(), "the scope has gone");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("mounted").flatten() {
        for dir in [&slices, &format!("/{slice}.slice")] {
            let _ = fs::remove_dir(hierarchy.path().join(dir.trim_start_matches('/')));
        }
    }
}

fn killed(w: &World) {
    let (_, pid) = started(w, &format!("/{}", w.id("k")));
    assert_ne!(dirs(w), Vec::<PathBuf>::new());
    for process in processes(w, pid) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    assert_eq!(dirs(w), Vec::<PathBuf>::new());
}

fn foreground(w: &World) {
    let bundle = w.bundle("c", "echo here");
    let outcome = w.run_with("c", &bundle, b"");
    outcome.exits(0);
    assert_eq!(outcome.text(), "here");
    assert_eq!(dirs(w), Vec::<PathBuf>::new());
}

fn nonsense(w: &World) {
    let mut bundle = w.bundle("c", "true");
    bundle.set("/linux/cgroupsPath", json!("/not/a/slice"));
    let path = bundle.path.to_string_lossy();
    let line = ["--systemd-cgroup", "create", "--bundle", &path, &w.id("c")];
    w.oci(&line).refuses(&["cgroupsPath", "slice:prefix:name"]);
    assert_eq!(dirs(w), Vec::<PathBuf>::new());
}
