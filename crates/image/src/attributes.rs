// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Owner, mode, times and extended attributes of a file: taken from an archive's entry or from another file, and
//! put on one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use crate::stack::{by_fd, kind_of};
use crate::tarball::{self, Entry};

/// What a file has besides its content.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    accessed: TimeSpec,
    modified: TimeSpec,
    xattrs: Vec<(OsString, Vec<u8>)>,
    symlink: bool,
}

/// Names that would change what overlayfs makes of a file, not what the file is.
fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"trusted.overlay.") || name.as_bytes().starts_with(b"user.overlay.")
}

impl From<&Entry> for Attributes {
    fn from(entry: &Entry) -> Attributes {
        let time = TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1));
        let xattrs = entry
            .xattrs
            .iter()
            .map(|(name, value)| (OsString::from_vec(name.clone()), value.clone()));
        Attributes {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            accessed: time,
            modified: time,
            xattrs: xattrs.filter(|(name, _)| !is_ours(name)).collect(),
            symlink: matches!(entry.kind, tarball::Kind::Symlink(_)),
        }
    }
}

impl Attributes {
    /// Of a directory that nobody described: root's, 0755, from the epoch, so that a layer is the same each time.
    pub(crate) fn fresh() -> Attributes {
        Attributes {
            mode: 0o755,
            uid: 0,
            gid: 0,
            accessed: TimeSpec::new(0, 0),
            modified: TimeSpec::new(0, 0),
            xattrs: Vec::new(),
            symlink: false,
        }
    }

    /// Of an open file, or of an entry (a symlink itself, not its target) of an open directory.
    pub(crate) fn of(fd: &(impl AsFd + AsRawFd), name: Option<&OsStr>) -> Result<Attributes> {
        let tried = || format!("read attributes of {}", name.unwrap_or_default().display());
        let stat: FileStat = match name {
            Some(name) => fstatat(fd, name, AtFlags::AT_SYMLINK_NOFOLLOW),
            None => fstat(fd),
        }
        .attempt(tried)?;
        let mut xattrs = Vec::new();
        for name_of in xattr_names(fd, name).unwrap_or_default() {
            if !is_ours(&name_of)
                && let Ok(Some(value)) = xattr_value(fd, name, &name_of)
            {
                xattrs.push((name_of, value));
            }
        }
        Ok(Attributes {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            accessed: TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
            modified: TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
            xattrs,
            symlink: kind_of(&stat) == SFlag::S_IFLNK,
        })
    }

    /// Puts all of it on an open file, or on an entry of an open directory that is not followed.
    pub(crate) fn apply(&self, fd: &(impl AsFd + AsRawFd), name: Option<&OsStr>) -> Result<()> {
        let tried = || format!("set attributes of {}", name.unwrap_or_default().display());
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        let mode = Mode::from_bits_truncate(self.mode);
        // Changing the owner clears setuid bits and file capabilities: it comes first.
        match name {
            Some(name) => fchownat(fd, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).attempt(tried)?,
            None => fchown(fd, uid, gid).attempt(tried)?,
        }
        match name {
            Some(_) if self.symlink => {}
            Some(name) => fchmodat(fd, name, mode, FchmodatFlags::FollowSymlink).attempt(tried)?,
            None => fchmod(fd, mode).attempt(tried)?,
        }
        for (attribute, value) in &self.xattrs {
            match set_xattr(fd, name, attribute, value) {
                Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                    log::warn!("extended attribute {} is not supported here", attribute.display());
                }
                other => other.attempt(|| format!("set extended attribute {}", attribute.display()))?,
            }
        }
        match name {
            Some(name) => {
                let flags = UtimensatFlags::NoFollowSymlink;
                utimensat(fd, name, &self.accessed, &self.modified, flags).attempt(tried)
            }
            None => self.set_times(fd).attempt(tried),
        }
    }

    /// Only the times, of an open file.
    pub(crate) fn set_times(&self, fd: &impl AsFd) -> Result<(), Errno> {
        futimens(fd, &self.accessed, &self.modified)
    }
}

/// Extended attributes by path: a name below a descriptor's path is not followed, a descriptor's own path is a link
/// that must be.
fn xattr_names(fd: &impl AsRawFd, name: Option<&OsStr>) -> io::Result<Vec<OsString>> {
    let path = by_fd(fd, name);
    let names = match name {
        Some(_) => xattr::list(&path),
        None => xattr::list_deref(&path),
    };
    names.map(Iterator::collect)
}

/// The value of one, None where it is not set; `name` as in [`Attributes::of`].
pub(crate) fn xattr_value(fd: &impl AsRawFd, name: Option<&OsStr>, attribute: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let path = by_fd(fd, name);
    match name {
        Some(_) => xattr::get(&path, attribute),
        None => xattr::get_deref(&path, attribute),
    }
}

/// Sets one; `name` as in [`Attributes::of`].
pub(crate) fn set_xattr(fd: &impl AsRawFd, name: Option<&OsStr>, attribute: &OsStr, value: &[u8]) -> io::Result<()> {
    let path = by_fd(fd, name);
    match name {
        Some(_) => xattr::set(&path, attribute, value),
        None => xattr::set_deref(&path, attribute, value),
    }
}
