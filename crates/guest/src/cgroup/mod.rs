// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The container's control group (cgroup v2): made, limited, frozen, killed, removed.

mod devices;
mod limits;
mod oom;
mod stats;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime as oci;

pub use limits::{Setting, cpu_weight, io_weight, settings};
pub use oom::OomWatch;
pub use stats::{IoStats, Stats, parse_io, parse_pairs};

const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// A group of our own; what is in it is killed when it is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// The device program that is attached.
    devices: Mutex<Option<(Vec<devices::Instruction>, OwnedFd)>>,
    /// Made with the group, which may be long before it is asked for.
    watch: Mutex<Option<OomWatch>>,
    removed: AtomicBool,
}

impl Cgroup {
    /// Makes the group `name` below the mount `root`, with all controllers that there are, for the devices that every container has.
    /// Errors: `Exists`.
    pub fn create(root: &Path, name: &Path) -> Result<Cgroup> {
        let mut path = root.to_owned();
        for (depth, part) in name.iter().enumerate() {
            enable(&path);
            path.push(part);
            let last = depth + 1 == name.iter().count();
            match fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && !last => {}
                other => other.attempt(|| format!("make cgroup {}", path.display()))?,
            }
        }
        let cgroup = Cgroup {
            watch: Mutex::new(OomWatch::new(&path).ok()),
            path,
            devices: Mutex::new(None),
            removed: AtomicBool::new(false),
        };
        cgroup.confine(&[])?;
        Ok(cgroup)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the limits that are given.
    pub fn apply(&self, resources: &oci::LinuxResources) -> Result<()> {
        for setting in settings(resources, &|file| fs::read_to_string(self.path.join(file)).ok())? {
            setting.write(&self.path)?;
        }
        match resources.devices() {
            Some(rules) => self.confine(rules),
            None => Ok(()),
        }
    }

    fn confine(&self, rules: &[oci::LinuxDeviceCgroup]) -> Result<()> {
        let wanted = devices::compile(rules)?;
        let mut attached = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if attached.as_ref().is_some_and(|(program, _)| *program == wanted) {
            return Ok(());
        }
        let program = devices::load(&wanted)?;
        let dir = fs::File::open(&self.path).attempt(|| format!("open {}", self.path.display()))?;
        devices::attach(dir.as_fd(), &program, attached.as_ref().map(|(_, old)| old))?;
        *attached = Some((wanted, program));
        Ok(())
    }

    /// Moves the calling process in; once the container has made groups of its own below, into that of `init`.
    pub fn enter(path: &Path, init: Option<i32>) -> Result<()> {
        let entered = fs::write(path.join("cgroup.procs"), "0");
        let entered = match (entered, init) {
            (Err(e), Some(init)) if e.kind() == ErrorKind::ResourceBusy => {
                let own = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap_or_default();
                match below(path, &own) {
                    Some(inner) => fs::write(inner.join("cgroup.procs"), "0"),
                    None => Err(e),
                }
            }
            (other, _) => other,
        };
        entered.attempt(|| format!("enter cgroup {}", path.display()))
    }

    /// All processes in it and below, in order.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = vec![];
        for group in self.groups() {
            let path = group.join("cgroup.procs");
            let text = match fs::read_to_string(&path) {
                // Gone meanwhile, or a threaded group, whose processes are listed above it.
                Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                other => other.attempt(|| format!("read {}", path.display()))?,
            };
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// SIGKILL to everything, at once.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Stops or continues everything, and waits until that is so.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let value = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", value)?;
        let reached = self.await_event("frozen", value, Duration::from_secs(10))?;
        if reached || !frozen {
            return Ok(());
        }
        self.write("cgroup.freeze", "0")?;
        Err(Error::new(
            Kind::Timeout,
            format!("freeze cgroup {}", self.path.display()),
        ))
    }

    /// Kills what is in it and waits for that.
    pub fn empty(&self, limit: Duration) -> Result<()> {
        if self.removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.kill()?;
        if self.await_event("populated", "0", limit)? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Timeout,
            format!("processes of cgroup {} do not end", self.path.display()),
        ))
    }

    /// Empties it and removes it and what is below; again is fine.
    pub fn remove(&self, limit: Duration) -> Result<()> {
        if self.removed.load(Ordering::Relaxed) || !self.path.exists() {
            self.removed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.empty(limit)?;
        self.give_back();
        let mut groups = self.groups();
        groups.reverse();
        for group in groups {
            match fs::remove_dir(&group) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => other.attempt(|| format!("remove cgroup {}", group.display()))?,
            }
        }
        self.removed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of the files that only its processes have looked at. Else they stay in memory, with the group itself and on the host
    /// with all that they are open of, until somebody needs the memory.
    fn give_back(&self) {
        let held = fs::read_to_string(self.path.join("memory.current")).unwrap_or_default();
        // Not all of it can be had: an error then, too. Kernels before 5.19 have no such file.
        if let Err(e) = fs::write(self.path.join("memory.reclaim"), held.trim()) {
            log::debug!("give back the memory of cgroup {}: {e}", self.path.display());
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).attempt(|| format!("write {value} to {}", path.display()))
    }

    /// Itself first, each group before those below it.
    fn groups(&self) -> Vec<PathBuf> {
        let mut groups = vec![self.path.clone()];
        let mut next = 0;
        while let Some(group) = groups.get(next) {
            let below = fs::read_dir(group).into_iter().flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let below: Vec<_> = below.map(|entry| entry.path()).collect();
            groups.extend(below);
            next += 1;
        }
        groups
    }

    /// False when the time is up first.
    fn await_event(&self, key: &str, value: &str, limit: Duration) -> Result<bool> {
        let path = self.path.join("cgroup.events");
        let what = || format!("read {}", path.display());
        let file = fs::File::open(&path).attempt(what)?;
        let until = Instant::now() + limit;
        loop {
            let mut text = [0; 512];
            let length = nix::sys::uio::pread(&file, &mut text, 0).attempt(what)?;
            let text = String::from_utf8_lossy(&text[..length]);
            if text.lines().any(|line| line.split_once(' ') == Some((key, value))) {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, left) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e).attempt(what),
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(e) = self.remove(Duration::from_secs(2)) {
            log::warn!("{}", e.chain());
        }
    }
}

/// Lets the groups below `path` use what this one has; a controller that there is not is not missed until a
/// limit needs it.
fn enable(path: &Path) {
    let there = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for name in there.split_whitespace().filter(|name| CONTROLLERS.contains(name)) {
        if let Err(e) = fs::write(path.join("cgroup.subtree_control"), format!("+{name}")) {
            log::warn!("enable controller {name} in {}: {e}", path.display());
        }
    }
}

/// The group of a process (text of /proc/pid/cgroup) if it is below `path`, by the last part of `path`.
fn below(path: &Path, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut parts = Path::new(own).iter();
    let name = path.file_name()?;
    parts.find(|part| *part == name)?;
    let rest: PathBuf = parts.collect();
    rest.iter().all(|part| part != "..").then(|| path.join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_below_is_found_by_the_containers_name() {
        let path = Path::new("/sys/fs/cgroup/kata/c1");
        assert_eq!(
            below(path, "0::/kata/c1/init.scope\n").unwrap(),
            path.join("init.scope")
        );
        assert_eq!(below(path, "4:cpu:/x\n0::/kata/c1\n").unwrap(), path);
        assert!(below(path, "0::/kata/c2/init\n").is_none());
        assert!(below(path, "0::/kata/c1/../c2\n").is_none());
    }
}
