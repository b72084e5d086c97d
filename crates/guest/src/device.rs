// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a container has in /dev: nodes and links.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use crate::rootfs::{Laid, kind_of, look_at};
use crate::tree::Tree;

const DEFAULTS: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the default nodes, those of the spec (which may redefine a default one), and the links.
pub fn populate(rootfs: &Laid, spec: &Spec) -> Result<()> {
    let wanted = spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten());
    let wanted: Vec<_> = wanted.cloned().collect();
    let defaults = DEFAULTS.iter().map(|(path, major, minor)| {
        let mut device = LinuxDevice::default();
        device
            .set_path(path.into())
            .set_typ(LinuxDeviceType::C)
            .set_major(*major)
            .set_minor(*minor);
        device
    });
    let defaults = defaults.filter(|default| !wanted.iter().any(|device| device.path() == default.path()));
    let usual = umask(Mode::empty());
    for device in defaults.chain(wanted.iter().cloned()) {
        place(rootfs, &device).attempt(|| format!("make device {}", device.path().display()))?;
    }
    umask(usual);
    let dev = rootfs.make(Path::new("/dev"), true)?;
    for (name, target) in LINKS {
        link(dev.as_fd(), name, target).attempt(|| format!("link /dev/{name} to {target}"))?;
    }
    Ok(())
}

/// In place of what is there, if anything is.
fn link(dev: BorrowedFd<'_>, name: &str, target: &str) -> nix::Result<()> {
    match symlinkat(target, dev, name) {
        Err(nix::Error::EEXIST) => {
            unlinkat(dev, name, UnlinkatFlags::NoRemoveDir)?;
            symlinkat(target, dev, name)
        }
        other => other,
    }
}

fn place(rootfs: &Laid, device: &LinuxDevice) -> Result<()> {
    let path = device.path();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Kind::Invalid, "the path names no file"));
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::A => return Err(Error::new(Kind::Invalid, "type a is for rules")),
    };
    let number = |number: i64| u64::try_from(number).context(Kind::Invalid, || format!("device number {number}"));
    let numbers = if kind == SFlag::S_IFIFO {
        0
    } else {
        makedev(number(device.major())?, number(device.minor())?)
    };
    let dir = rootfs.make(parent, true)?;
    match look_at(dir.as_fd(), Path::new(name)) {
        // The image has it already.
        Ok(there) if kind_of(&there) == kind && there.st_rdev == numbers => {}
        Ok(there) if kind_of(&there) == SFlag::S_IFDIR => {
            return Err(nix::Error::EISDIR).attempt(|| "replace what is there".into());
        }
        Ok(_) => unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).attempt(|| "replace what is there".into())?,
        Err(_) => {}
    }
    let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777);
    match mknodat(&dir, name, kind, mode, numbers) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        // No user namespace may make nodes; the guest's own serves.
        Err(nix::Error::EPERM) => {
            let target = rootfs.make(path, false)?;
            return Tree::open_path(path, false)?.attach(target.as_fd());
        }
        Err(e) => return Err(e).attempt(|| "make the node".into()),
    }
    let made = look_at(dir.as_fd(), Path::new(name)).attempt(|| "look at the node".into())?;
    // Whatever was there, and whatever its directory hands down; a new one is as it should be in most cases.
    if made.st_mode & 0o7777 != mode.bits() {
        fchmodat(&dir, name, mode, FchmodatFlags::FollowSymlink).attempt(|| "set its mode".into())?;
    }
    let (user, group) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (made.st_uid, made.st_gid) == (user, group) {
        return Ok(());
    }
    fchownat(
        &dir,
        name,
        Some(Uid::from_raw(user)),
        Some(Gid::from_raw(group)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .attempt(|| "set its owner".into())
}

/// Copies the tree that `from` is open on into the new file system `to` (`tmpcopyup`).
pub fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // The guest's /proc is still in reach.
    let path = |fd: BorrowedFd<'_>| PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
    copy_dir(&path(from), &path(to)).attempt(|| "copy up what the mount hides".into())
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        let stat = entry.metadata()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_dir(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        std::os::unix::fs::lchown(&target, Some(stat.uid()), Some(stat.gid()))?;
        if !kind.is_symlink() {
            fs::set_permissions(&target, fs::Permissions::from_mode(stat.mode() & 0o7777))?;
        }
    }
    Ok(())
}
