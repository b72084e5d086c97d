// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What may not be left when a test has ended: processes, mounts, cgroups, sockets and directories that carry its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::{Runtime, World, process};

/// How long a process that was killed may take to be gone.
const GRACE: Duration = Duration::from_secs(20);

fn processes(marker: &str) -> Vec<String> {
    let own = std::process::id().cast_signed();
    let pids = process::all().into_iter();
    let found = pids.filter(|pid| *pid != own && process::carries(*pid, marker));
    found
        .map(|pid| {
            format!(
                "process {pid} (cwd {}): {}",
                process::cwd(pid).display(),
                process::line(pid)
            )
        })
        .collect()
}

fn mounts(marker: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    table
        .lines()
        .filter(|line| line.contains(marker))
        .map(|line| format!("mount {line}"))
        .collect()
}

fn cgroups(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(marker) {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
                dirs.push(entry.path());
            }
        }
    }
    found
}

/// Groups without a process that the porcelain made, which names them by an id that it draws: below our own group or beside it,
/// newer than `since`.
fn nameless(since: SystemTime) -> Vec<String> {
    let own = fs::read_to_string("/proc/self/cgroup").expect("proc is mounted");
    let own: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let mut found = Vec::new();
    let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let tops = mounts.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    for top in tops.filter(|top| top.join("cgroup.procs").exists()) {
        let groups = own
            .iter()
            .flat_map(|group| Path::new(group).ancestors().take(2))
            .map(|group| top.join(group.strip_prefix("/").unwrap_or(group)));
        let groups: BTreeSet<PathBuf> = groups.collect();
        for entry in groups
            .iter()
            .filter_map(|group| fs::read_dir(group).ok())
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let drawn = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fresh = entry
                .metadata()
                .and_then(|entry| entry.modified())
                .is_ok_and(|made| made >= since);
            let empty = fs::read_to_string(entry.path().join("cgroup.procs")).is_ok_and(|pids| pids.is_empty());
            if drawn && fresh && empty {
                found.push(format!("cgroup {}", entry.path().display()));
            }
        }
    }
    found
}

/// Everything of `world` that is still there.
pub fn left(world: &World) -> Vec<String> {
    let marker = world
        .dir()
        .file_name()
        .expect("has a name")
        .to_string_lossy()
        .into_owned();
    let mut found = processes(&marker);
    found.extend(mounts(&marker));
    found.extend(cgroups(&marker));
    if world.runtime == Runtime::Ours {
        found.extend(nameless(world.born()));
        for entry in fs::read_dir(world.root()).into_iter().flatten().flatten() {
            found.push(format!("directory {}", entry.path().display()));
        }
    }
    found
}

/// Fails the test if anything stays.
pub fn check(world: &World) {
    let start = Instant::now();
    loop {
        let found = left(world);
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed() < GRACE, "left behind:\n{}", found.join("\n"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills what a failed test left, so that it cannot disturb the next; says nothing.
pub fn sweep(world: &World) {
    if let Some(marker) = world.dir().file_name() {
        sweep_all(&marker.to_string_lossy());
    }
}

/// As [`sweep`], whatever carries `marker` in its name.
pub fn sweep_all(marker: &str) {
    for line in processes(marker) {
        let pid = line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
