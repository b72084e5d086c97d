// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The control group of a sandbox on the host: monitor, device process, hypervisor and shims stand in it, so that engines find
//! there what a container uses. It limits nothing; the container's limits are kept in the guest.
//!
//! ```text
//! monitor: write down ► make ► enter ► … everything that it starts is in it … ► go back ► remove
//! shim:    enter, as written down
//! deleter: remove, as written down, once the last process has left; also after a monitor that was killed
//! ```

mod hierarchy;
mod place;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};

use hierarchy::Hierarchy;
pub use place::Place;

/// In the sandbox's directory: one directory of a control group per line (the kernel allows no newline in their names).
const RECORD: &str = "cgroups";

/// How long the last processes of a sandbox may take to be gone.
const LEAVING: Duration = Duration::from_secs(10);

/// The group that this process has entered. Dropping it goes back and removes it.
#[derive(Debug)]
pub struct Group {
    dirs: Vec<PathBuf>,
    /// Where we came from, and the root of that hierarchy.
    homes: Vec<(PathBuf, PathBuf)>,
}

impl Group {
    /// Makes the group at `place` in every hierarchy and moves this process there, and those that it `brings`. The sandbox's directory
    /// `sandbox` gets the record before anything is made.
    pub fn enter(place: &Place, sandbox: &Path, brings: &Company) -> Result<Group> {
        let found = hierarchy::mounted()?;
        let dirs: Vec<PathBuf> = match &brings.asked_from {
            None => found.iter().map(|hierarchy| hierarchy.dir(place)).collect(),
            Some(groups) => {
                let theirs = hierarchy::mounted_for(groups)?;
                theirs.iter().map(|hierarchy| hierarchy.dir(place)).collect()
            }
        };
        if dirs.len() != found.len() {
            return Err(Error::new(Kind::Unsupported, "the caller sees other control groups"));
        }
        record(sandbox, &dirs)?;
        let mut group = Group {
            dirs,
            homes: Vec::new(),
        };
        for (hierarchy, dir) in found.iter().zip(&group.dirs) {
            make(hierarchy, dir)?;
            group.homes.push((hierarchy.home(), hierarchy.mount.clone()));
            move_to(dir)?;
            brings.processes.iter().try_for_each(|pid| send_to(dir, *pid))?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (home, root) in &self.homes {
            // A session that has ended takes its groups along.
            if let Err(e) = move_to(home).or_else(|_| move_to(root)) {
                log::warn!("{}", e.chain());
            }
        }
        if let Err(e) = remove_all(&self.dirs) {
            log::warn!("{}", e.chain());
        }
    }
}

/// What comes along to a group with the process that enters it.
#[derive(Debug, Default)]
pub struct Company {
    /// Those that it has started before.
    pub processes: Vec<i32>,
    /// The groups of whoever asks, if that is another process: places may be relative to them.
    pub asked_from: Option<String>,
}

fn record(sandbox: &Path, dirs: &[PathBuf]) -> Result<()> {
    let mut lines = Vec::new();
    for dir in dirs {
        lines.extend_from_slice(dir.as_os_str().as_bytes());
        lines.push(b'\n');
    }
    base::file::replace(&sandbox.join(RECORD), &lines)
}

/// The directories of the group of the sandbox in `sandbox`; none when it has none.
fn recorded(sandbox: &Path) -> Result<Vec<PathBuf>> {
    let path = sandbox.join(RECORD);
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(|| format!("read {}", path.display()))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines
        .map(|line| std::ffi::OsString::from_vec(line.to_vec()).into())
        .collect())
}

/// Moves this process to the group of the sandbox in `sandbox`.
pub fn join(sandbox: &Path) -> Result<()> {
    recorded(sandbox)?.iter().try_for_each(|dir| move_to(dir))
}

/// The sandbox in `sandbox` has no group of its own.
pub fn forget(sandbox: &Path) -> Result<()> {
    let path = sandbox.join(RECORD);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).attempt(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Removes the group of the sandbox in `sandbox`, as far as it is still there, once its last process has left. Groups above it
/// stay, as runc leaves them: others may be about to use them. Errors: `State` when somebody stays in it.
pub fn remove(sandbox: &Path) -> Result<()> {
    remove_all(&recorded(sandbox)?)
}

fn remove_all(dirs: &[PathBuf]) -> Result<()> {
    if dirs.is_empty() {
        return Ok(());
    }
    // A spec may name the group in which its caller is, or all processes are: that is not ours to remove.
    let found = hierarchy::mounted()?;
    let others = |dir: &Path| {
        found
            .iter()
            .any(|hierarchy| hierarchy.home() == dir || hierarchy.mount == dir)
    };
    let limit = Instant::now() + LEAVING;
    dirs.iter()
        .filter(|dir| !others(dir))
        .try_for_each(|dir| remove_one(dir, limit))
}

/// With the groups that somebody made below it.
fn remove_one(dir: &Path, limit: Instant) -> Result<()> {
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => e,
        };
        let what = || format!("remove cgroup {}", dir.display());
        if error.kind() != ErrorKind::ResourceBusy {
            return Err(error).attempt(what);
        }
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_one(&entry.path(), limit)?;
            }
        }
        if Instant::now() > limit {
            let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            let inside: Vec<&str> = inside.split_whitespace().collect();
            let why = format!(
                "processes are still in it ({}): end them, then remove it",
                inside.join(" ")
            );
            return Err(Error::new(Kind::State, what()).because(why));
        }
        sleep(Duration::from_millis(2));
    }
}

/// `dir` with all above it, fit for processes.
fn make(hierarchy: &Hierarchy, dir: &Path) -> Result<()> {
    let below = dir.strip_prefix(&hierarchy.mount).unwrap_or(Path::new(""));
    let mut path = hierarchy.mount.clone();
    for name in below.components() {
        if matches!(hierarchy.kind, hierarchy::Kind::Unified | hierarchy::Kind::Hybrid) {
            delegate(&path);
        }
        let parent = path.clone();
        path.push(name);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).attempt(|| format!("make cgroup {}", path.display()));
            }
            _ => {}
        }
        if hierarchy.kind == hierarchy::Kind::Cpuset {
            inherit(&parent, &path)?;
        }
    }
    Ok(())
}

/// Lets the groups below `dir` have the controllers that it has. One that cannot be had counts nothing there, and hinders nobody.
fn delegate(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        if let Err(e) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
            log::debug!("controller {controller} below cgroup {}: {e}", dir.display());
        }
    }
}

/// A cpuset takes no process before it has processors and memory nodes.
fn inherit(parent: &Path, dir: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        let what = || format!("set {}", file.display());
        if fs::read_to_string(&file).attempt(what)?.trim().is_empty() {
            let given = fs::read(parent.join(name)).attempt(what)?;
            fs::write(&file, given).attempt(what)?;
        }
    }
    Ok(())
}

fn move_to(dir: &Path) -> Result<()> {
    // Zero is whoever writes.
    send_to(dir, 0)
}

fn send_to(dir: &Path, pid: i32) -> Result<()> {
    fs::write(dir.join("cgroup.procs"), pid.to_string()).attempt(|| format!("enter cgroup {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_paths_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(recorded(dir.path()).unwrap().is_empty());
        remove(dir.path()).unwrap();
        join(dir.path()).unwrap();
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/c/a b\xff:c".to_vec()));
        let dirs = vec![PathBuf::from("/c/x"), odd];
        record(dir.path(), &dirs).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), dirs);
    }

    #[test]
    fn what_is_recorded_is_removed_and_what_has_gone_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("group");
        fs::create_dir(&group).unwrap();
        record(dir.path(), &[dir.path().join("gone"), group.clone()]).unwrap();
        remove(dir.path()).unwrap();
        assert!(!group.exists());
    }

    #[test]
    fn a_fresh_cpuset_gets_what_the_one_above_has() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        for (name, above, here) in [("cpuset.cpus", "0-3\n", "\n"), ("cpuset.mems", "0-1\n", "1\n")] {
            fs::write(dir.path().join(name), above).unwrap();
            fs::write(below.join(name), here).unwrap();
        }
        inherit(dir.path(), &below).unwrap();
        assert_eq!(fs::read_to_string(below.join("cpuset.cpus")).unwrap(), "0-3\n");
        assert_eq!(fs::read_to_string(below.join("cpuset.mems")).unwrap(), "1\n");
    }
}
