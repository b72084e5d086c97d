// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The guest's own mounts, made once at boot. It does not know the containers'.

use std::fs::create_dir_all;

use base::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

/// Where the cgroups are.
pub const CGROUPS: &str = "/sys/fs/cgroup";

struct Wanted {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const fn wanted(kind: &'static str, at: &'static str, flags: MsFlags, data: &'static str) -> Wanted {
    Wanted { kind, at, flags, data }
}

const NONE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const PROGRAMS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In this order.
const ALL: [Wanted; 9] = [
    wanted("proc", "/proc", NONE, ""),
    wanted("sysfs", "/sys", NONE, ""),
    // With nsdelegate a container cannot lift its own limits.
    wanted("cgroup2", CGROUPS, NONE, "nsdelegate"),
    wanted("devtmpfs", "/dev", DEVICES, "mode=755"),
    wanted("devpts", "/dev/pts", DEVICES, "newinstance,ptmxmode=666,mode=620,gid=5"),
    wanted("tmpfs", "/dev/shm", NONE, "mode=1777"),
    wanted("mqueue", "/dev/mqueue", NONE, ""),
    wanted("tmpfs", "/run", PROGRAMS, "mode=755"),
    wanted("tmpfs", "/tmp", PROGRAMS, "mode=1777"),
];

/// Puts a mount of the root over itself: the kernel's first root is none that pivot_root(2) would leave.
pub fn make_root() -> Result<()> {
    const PLACE: &str = "/run";
    let what = || "make a root that containers can leave".to_owned();
    let none = None::<&str>;
    mount(Some("/"), PLACE, none, MsFlags::MS_BIND, none).attempt(what)?;
    chdir(PLACE).attempt(what)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).attempt(what)?;
    chroot(".").attempt(what)?;
    chdir("/").attempt(what)
}

/// Mounts everything; what is mounted already stays.
pub fn make() -> Result<()> {
    ALL.iter().try_for_each(|wanted| {
        let Wanted { kind, at, flags, data } = wanted;
        let what = || format!("mount {kind} on {at}");
        // Those below /dev and /sys.
        let made = create_dir_all(at);
        match mount(Some(*kind), *at, Some(*kind), *flags, Some(*data)) {
            Err(nix::Error::EBUSY) => Ok(()),
            // A kernel without POSIX message queues serves containers that do not use them.
            Err(nix::Error::ENODEV) if *kind == "mqueue" => Ok(()),
            Err(nix::Error::ENOENT) => made.attempt(what),
            other => other.attempt(what),
        }
    })
}
