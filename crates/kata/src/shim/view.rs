// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the shim shows of the container's files: its root directory becomes the container's rootfs with the volumes in place, as
//! the host has them. Engines enter the mount namespace of the pid that stands for a container, and copy files there
//! (`podman cp`): they must land in the container, not on the host.
//!
//! It knows where the monitor has mounted things; it does not mount the guest's own file systems (tmpfs); of its
//! proc, [`super::procfs`] shows what tells of processes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use api::task::api::{StateRequest, StateResponse};
use base::{Context, Error, Kind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};
use oci::Bundle;
use sandbox::share;

use super::procfs::Plan;
use crate::link::{Link, TASK};

/// A container's files, to be entered.
#[derive(Debug)]
pub struct View {
    /// `/proc/<pid>` of the monitor.
    monitor: File,
    /// For the monitor.
    rootfs: PathBuf,
    /// Where each volume is for the monitor, and in the container.
    volumes: Vec<(PathBuf, PathBuf)>,
    processes: Option<Plan>,
}

impl View {
    /// Looks where the files of container `id` of the sandbox in `dir` are; `monitor` is its monitor's directory in `/proc`.
    pub fn find(monitor: File, dir: &Path, id: &str) -> Result<View> {
        let mut link = Link::open(dir)?;
        let request = StateRequest {
            id: id.to_owned(),
            ..StateRequest::default()
        };
        let state: StateResponse = link.call(TASK, "State", &request)?;
        let bundle = Bundle::open(Path::new(&state.bundle))?;
        let places = share::places(dir, id, &bundle);
        let targets = places.volumes.iter().map(|(_, target)| target.as_path());
        Ok(View {
            processes: Plan::of(&bundle, targets),
            monitor,
            rootfs: places.rootfs,
            volumes: places.volumes,
        })
    }

    /// Makes it our own mount namespace; descriptors that are open stay. There must be one thread. What remains to be mounted there is
    /// returned.
    pub fn enter(self) -> Result<Option<Plan>> {
        let none = None::<&str>;
        let what = || "enter the monitor's mount namespace".to_owned();
        let mounts = openat(
            &self.monitor,
            "ns/mnt",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        setns(mounts.attempt(what)?, CloneFlags::CLONE_NEWNS).attempt(what)?;
        // We are at the root of the namespace now: where that of the monitor is, it may have been started in another (chroot).
        let base = PathBuf::from(readlinkat(&self.monitor, "root").attempt(what)?);
        let found = |path: &Path| base.join(path.strip_prefix("/").unwrap_or(path));
        unshare(CloneFlags::CLONE_NEWNS).attempt(|| "leave it again".into())?;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).attempt(|| "keep mounts to us".into())?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let rootfs = found(&self.rootfs);
        let what = || format!("enter {}", rootfs.display());
        let root = open(&rootfs, flags, Mode::empty()).attempt(what)?;
        for (volume, target) in &self.volumes {
            place(root.as_fd(), &found(volume), target).attempt(|| format!("show the volume {}", target.display()))?;
        }
        fchdir(&root).attempt(what)?;
        pivot_root(".", ".").attempt(what)?;
        umount2(".", MntFlags::MNT_DETACH).attempt(|| "let go of the host's files".into())?;
        chdir("/").attempt(what)?;
        Ok(self.processes)
    }
}

/// A volume whose place is in a file system of the guest alone (`/dev/…`) is not shown.
fn place(root: std::os::fd::BorrowedFd<'_>, volume: &Path, target: &Path) -> Result<()> {
    let inside = target.strip_prefix("/").unwrap_or(target);
    // No symlink of the image leads out.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let target = match openat2(root, inside, how) {
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(()),
        other => other.attempt(|| "open its place".into())?,
    };
    let on = format!("/proc/self/fd/{}", target.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    match mount(Some(volume), on.as_str(), None::<&str>, flags, None::<&str>) {
        // A directory where the guest has a file, or the other way round.
        Err(nix::Error::ENOTDIR) => Err(Error::new(Kind::State, "its place is of another type")),
        other => other.attempt(|| "bind it".into()),
    }
}
