// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The control group of a container on the host. Its shims stand in it; in that of a sandbox's first container monitor, device process
//! and hypervisor, too, so that engines find there what the machine uses. It limits nothing; the container's limits are kept in the
//! guest.
//!
//! ```text
//! monitor: write down ► make ► enter ► … everything that it starts is in it … ► go back
//! creator of a further container: write down ► make
//! shim:    enter, as written down
//! deleter: hand the sandbox's processes over to another container's, if there is one ► remove, as written down, once the last
//!          process has left; also after a monitor that was killed
//! ```
//!
//! A scope of systemd's cannot be made before somebody is in it: there the shim of a further container makes it as it enters.

mod hierarchy;
mod place;
mod systemd;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};

use hierarchy::Hierarchy;
pub use hierarchy::unescape;
pub use place::Place;
use systemd::Scope;

/// In the container's directory: one directory of a control group per line (the kernel allows no newline in their names).
const RECORD: &str = "cgroups";
/// In the container's directory, where systemd is asked for the group: slice and name of its scope, a line each.
const SCOPE: &str = "scope";

/// How long the last processes of a container may take to be gone.
const LEAVING: Duration = Duration::from_secs(10);

/// The group that this process has entered. Dropping it goes back.
#[derive(Debug)]
pub struct Group {
    /// Where we came from, and the root of that hierarchy.
    homes: Vec<(PathBuf, PathBuf)>,
}

impl Group {
    /// Makes the group at `place` in every hierarchy and moves this process there, and those that it `brings`. The container's directory
    /// `container` gets the record before anything is made.
    pub fn enter(place: &Place, container: &Path, brings: &Company) -> Result<Group> {
        let mut group = Group { homes: Vec::new() };
        let (planned, scope) = plan(place, container, brings.asked_from.as_deref())?;
        if let Some(scope) = scope {
            systemd::start(scope, std::process::id())?;
        }
        for (hierarchy, dir) in planned {
            // What systemd has made is its own, with all above it.
            if scope.is_none() || !dir.exists() {
                make(&hierarchy, &dir)?;
            }
            group.homes.push((hierarchy.home(), hierarchy.mount.clone()));
            move_to(&dir)?;
            brings.processes.iter().try_for_each(|pid| send_to(&dir, *pid))?;
        }
        Ok(group)
    }
}

/// A process will be moved to another group soon. The kernel lets a grace period of RCU pass before the first move, some 10 ms, and does
/// without one for moves that follow closely: it is asked for now, by a move that changes nothing, for which nobody waits.
pub fn announce() {
    let moved = || -> Result<()> {
        let Some(home) = hierarchy::mounted()?.last().map(Hierarchy::home) else {
            return Ok(());
        };
        // In a container our group may be out of sight, and what looks like it another one.
        let path = home.join("cgroup.procs");
        let inside = fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
        let own = std::process::id().to_string();
        if inside.lines().any(|pid| pid == own) {
            move_to(&home)?;
        }
        Ok(())
    };
    let begun = std::thread::Builder::new().name("announce".into()).spawn(move || {
        if let Err(e) = moved() {
            log::debug!("{}", e.chain());
        }
    });
    if let Err(e) = begun {
        log::debug!("start a thread: {e}");
    }
}

/// Makes the group at `place` in every hierarchy, for the shim of a further container of a sandbox; see [`Group::enter`].
pub fn prepare(place: &Place, container: &Path) -> Result<()> {
    let (planned, scope) = plan(place, container, None)?;
    if scope.is_some() {
        return Ok(());
    }
    planned.iter().try_for_each(|(hierarchy, dir)| make(hierarchy, dir))
}

/// A group in each hierarchy, and the scope that systemd is to be asked for.
type Planned<'p> = (Vec<(Hierarchy, PathBuf)>, Option<&'p Scope>);

/// Where the group at `place` is, seen from the groups in `asked_from` or from ours; written down.
fn plan<'p>(place: &'p Place, container: &Path, asked_from: Option<&str>) -> Result<Planned<'p>> {
    let found = hierarchy::mounted()?;
    let dirs: Vec<PathBuf> = match asked_from {
        None => found.iter().map(|hierarchy| hierarchy.dir(place)).collect(),
        Some(groups) => {
            let theirs = hierarchy::mounted_for(groups)?;
            theirs.iter().map(|hierarchy| hierarchy.dir(place)).collect()
        }
    };
    if dirs.len() != found.len() {
        return Err(Error::new(Kind::Unsupported, "the caller sees other control groups"));
    }
    let planned = found.into_iter().zip(dirs.clone()).collect();
    let scope = match place {
        Place::Scope(_, scope) if systemd::booted() => Some(scope),
        _ => None,
    };
    record(container, &dirs, scope)?;
    Ok((planned, scope))
}

impl Drop for Group {
    fn drop(&mut self) {
        for (home, root) in &self.homes {
            // A session that has ended takes its groups along.
            if let Err(e) = move_to(home).or_else(|_| move_to(root)) {
                log::warn!("{}", e.chain());
            }
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

fn record(container: &Path, dirs: &[PathBuf], scope: Option<&Scope>) -> Result<()> {
    if let Some(Scope { slice, name }) = scope {
        base::file::replace(&container.join(SCOPE), format!("{slice}\n{name}\n").as_bytes())?;
    }
    let mut lines = Vec::new();
    for dir in dirs {
        lines.extend_from_slice(dir.as_os_str().as_bytes());
        lines.push(b'\n');
    }
    base::file::replace(&container.join(RECORD), &lines)
}

/// The directories of the group of the container in `container`; none when it has none.
fn recorded(container: &Path) -> Result<Vec<PathBuf>> {
    let path = container.join(RECORD);
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(|| format!("read {}", path.display()))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines
        .map(|line| std::ffi::OsString::from_vec(line.to_vec()).into())
        .collect())
}

/// The scope of systemd's that is the group of the container in `container`, if it is one.
fn scope(container: &Path) -> Result<Option<Scope>> {
    let path = container.join(SCOPE);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.attempt(|| format!("read {}", path.display()))?,
    };
    let mut lines = text.lines().map(str::to_owned);
    Ok(lines
        .next()
        .zip(lines.next())
        .map(|(slice, name)| Scope { slice, name }))
}

/// Moves this process, for others `pid`, to the group of the container in `container`.
pub fn join(container: &Path, pid: u32) -> Result<()> {
    let dirs = recorded(container)?;
    if let Some(scope) = scope(container)?
        && dirs.iter().any(|dir| !dir.exists())
    {
        systemd::start(&scope, pid)?;
        for hierarchy in hierarchy::mounted()? {
            let missing = |dir: &&PathBuf| dir.starts_with(&hierarchy.mount) && !dir.exists();
            if let Some(dir) = dirs.iter().find(missing) {
                make(&hierarchy, dir)?;
            }
        }
    }
    dirs.iter().try_for_each(|dir| move_to(dir))
}

/// The container in `container` has no group of its own.
pub fn forget(container: &Path) -> Result<()> {
    [RECORD, SCOPE].iter().try_for_each(|name| {
        let path = container.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).attempt(|| format!("remove {}", path.display())),
            _ => Ok(()),
        }
    })
}

/// The container in `container` goes while others of its sandbox stay, those in `others`: the sandbox's `processes`, if they stand in its
/// group, move to the group of one of them.
pub fn hand_over(container: &Path, others: &[PathBuf], processes: &[i32]) -> Result<()> {
    let groups = recorded(container)?;
    let mut heirs = Vec::new();
    for other in others {
        heirs.extend(recorded(other)?);
    }
    let found = hierarchy::mounted()?;
    for dir in &groups {
        let Some(hierarchy) = found.iter().find(|hierarchy| dir.starts_with(&hierarchy.mount)) else {
            continue;
        };
        let heir = heirs
            .iter()
            .find(|heir| heir.starts_with(&hierarchy.mount) && *heir != dir && heir.is_dir());
        // None has a group: nor had we one of our own but for this container.
        let heir = heir.unwrap_or(&hierarchy.mount);
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let inside = inside.lines().filter_map(|pid| pid.parse::<i32>().ok());
        for pid in inside.filter(|pid| processes.contains(pid)) {
            // One that has ended meanwhile is no loss.
            if let Err(e) = fs::write(heir.join("cgroup.procs"), pid.to_string()) {
                log::debug!("move process {pid} to cgroup {}: {e}", heir.display());
            }
        }
    }
    Ok(())
}

/// Removes the group of the container in `container`, as far as it is still there, once its last process has left. Groups above it
/// stay, as runc leaves them: others may be about to use them. Errors: `State` when somebody stays in it.
pub fn remove(container: &Path) -> Result<()> {
    remove_all(&recorded(container)?)?;
    // It may know already that the last process has left.
    scope(container)?.map_or(Ok(()), |scope| systemd::stop(&scope.name))
}

/// A spec may name the group in which its caller is, or all processes are: that is not ours to remove.
fn own(dir: &Path, found: &[Hierarchy]) -> bool {
    found
        .iter()
        .any(|hierarchy| hierarchy.home() == dir || hierarchy.mount == dir)
}

fn remove_all(dirs: &[PathBuf]) -> Result<()> {
    if dirs.is_empty() {
        return Ok(());
    }
    let found = hierarchy::mounted()?;
    let limit = Instant::now() + LEAVING;
    dirs.iter()
        .filter(|dir| !own(dir, &found))
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
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (all, given) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let missing = all
        .split_whitespace()
        .filter(|controller| given.split_whitespace().all(|given| given != *controller));
    // The kernel takes its time for each, also for one that is there.
    for controller in missing {
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
        join(dir.path(), std::process::id()).unwrap();
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/c/a b\xff:c".to_vec()));
        let dirs = vec![PathBuf::from("/c/x"), odd];
        record(dir.path(), &dirs, None).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), dirs);
        assert_eq!(scope(dir.path()).unwrap(), None);
        let wanted = Scope {
            slice: "machine.slice".into(),
            name: "x-c1.scope".into(),
        };
        record(dir.path(), &dirs, Some(&wanted)).unwrap();
        assert_eq!(scope(dir.path()).unwrap(), Some(wanted));
        forget(dir.path()).unwrap();
        assert_eq!(scope(dir.path()).unwrap(), None);
        assert!(recorded(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn what_is_recorded_is_removed_and_what_has_gone_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("group");
        fs::create_dir(&group).unwrap();
        record(dir.path(), &[dir.path().join("gone"), group.clone()], None).unwrap();
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
