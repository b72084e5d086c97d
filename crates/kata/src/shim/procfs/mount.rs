// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Mounts what is shown of the container's processes over its `/proc`, and over `/dev/pts` or, where the image has none, `/dev`: the
//! guest has file systems of its own there, so that nothing of the container's files is hidden.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, getegid, geteuid};
use oci::Bundle;

use super::tree::Root;
use super::{Mount, Procfs};

/// Where to mount, with what it takes from the host's files.
#[derive(Debug)]
pub struct Plan {
    proc: File,
    dev: Option<File>,
    /// The image's `/dev` shows nothing.
    whole: bool,
}

impl Plan {
    /// For a container of `bundle` with volumes at `targets`. None where it has no /proc, or the host no FUSE.
    pub fn of<'a>(bundle: &Bundle, targets: impl IntoIterator<Item = &'a Path>) -> Option<Plan> {
        let mounts = || bundle.spec().mounts().iter().flatten();
        let has = |path: &str, kind: &str| {
            mounts().any(|mount| mount.destination() == Path::new(path) && mount.typ().as_deref() == Some(kind))
        };
        if !has("/proc", "proc") {
            return None;
        }
        let device = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            options.open("/dev/fuse")
        };
        let proc = match device() {
            Ok(proc) => proc,
            Err(e) => {
                log::debug!("open /dev/fuse: {e}: the container's processes are not shown");
                return None;
            }
        };
        Some(Plan {
            proc,
            dev: has("/dev", "tmpfs").then(device).and_then(|device| device.ok()),
            whole: !targets.into_iter().any(|target| target.starts_with("/dev")),
        })
    }

    /// Mounts it for container `id`, whose root directory is ours, in our own mount namespace. Its processes are served from now on.
    pub fn mount(self, id: &str) -> Option<Procfs> {
        let mut mounts = Vec::new();
        let mut put = |path: &str, device: File, root: Root| match over(path, &device) {
            Ok(()) => mounts.push(Mount { device, root }),
            Err(e) => log::debug!("show the processes of {id}: {}", e.chain()),
        };
        put("proc", self.proc, Root::Proc);
        if let Some(device) = self.dev {
            // Nobody serves yet: what is mounted must not be looked into.
            if Path::new("/dev/pts").is_dir() {
                put("dev/pts", device, Root::Pts);
            } else if self.whole {
                put("dev", device, Root::Dev);
            }
        }
        (!mounts.is_empty()).then(|| Procfs::new(id.to_owned(), mounts))
    }
}

fn over(path: &str, device: &File) -> Result<()> {
    let what = || format!("mount over /{path}");
    let place = place(path).attempt(what)?;
    // By its descriptor, but not through /proc.
    fchdir(&place).attempt(what)?;
    let (user, group) = (geteuid(), getegid());
    let options = format!(
        "fd={},rootmode=40000,user_id={user},group_id={group}",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("kata"), ".", Some("fuse.kata"), flags, Some(options.as_str()));
    chdir("/").attempt(what)?;
    mounted.attempt(what)
}

fn place(path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty())?;
    let how = OpenHow::new().flags(flags);
    openat2(
        &root,
        path,
        how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_IN_ROOT),
    )
}
