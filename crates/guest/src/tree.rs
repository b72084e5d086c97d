// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A mount that is attached nowhere yet: a copy of an existing one, or a new file system. It gets its
//! attributes first and its place last, so that no half-made mount is ever seen, and its place is an open
//! descriptor, so that no path is resolved twice.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use base::{Context, Error, Kind, Result};

use crate::sys;

/// Dropping it before [`Tree::attach`] undoes it.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
    /// For errors.
    name: String,
}

impl Tree {
    /// A copy of the mount at `path`, from there down, with all mounts below if `recursive`.
    pub fn open(path: &CStr, recursive: bool) -> Result<Tree> {
        let name = path.to_string_lossy().into_owned();
        let flags = if recursive {
            libc::AT_RECURSIVE.cast_unsigned()
        } else {
            0
        };
        let fd = sys::open_tree(libc::AT_FDCWD, path, flags).attempt(|| format!("open {name} to mount it"))?;
        Ok(Tree { fd, name })
    }

    /// [`Tree::open`] by a path.
    pub fn open_path(path: &Path, recursive: bool) -> Result<Tree> {
        Tree::open(&c_path(path)?, recursive)
    }

    /// A copy of the mount that `fd` is open on.
    pub fn open_fd(fd: BorrowedFd<'_>, name: &str) -> Result<Tree> {
        let flags = libc::AT_EMPTY_PATH.cast_unsigned();
        let fd = sys::open_tree(fd.as_raw_fd(), c"", flags).attempt(|| format!("open {name} to mount it"))?;
        Ok(Tree {
            fd,
            name: name.to_owned(),
        })
    }

    /// A new mount of a new file system, see [`Unmounted::new`], with mount attributes (`MOUNT_ATTR_*`).
    pub fn new(kind: &str, source: &str, options: &[String], attributes: u64) -> Result<Tree> {
        Unmounted::new(kind, source, options)?.mount(attributes)
    }

    /// Sets and clears attributes (`MOUNT_ATTR_*`).
    pub fn set(&self, set: u64, clear: u64, recursive: bool) -> Result<()> {
        if set == 0 && clear == 0 {
            return Ok(());
        }
        let attr = libc::mount_attr {
            attr_set: set,
            attr_clr: clear,
            propagation: 0,
            userns_fd: 0,
        };
        sys::mount_setattr(self.fd.as_fd(), recursive, &attr)
            .attempt(|| format!("set attributes {set:#x} of {}", self.name))
    }

    /// Sets the propagation (`MS_SHARED`, …).
    pub fn propagate(&self, propagation: u64, recursive: bool) -> Result<()> {
        let attr = libc::mount_attr {
            attr_set: 0,
            attr_clr: 0,
            propagation,
            userns_fd: 0,
        };
        sys::mount_setattr(self.fd.as_fd(), recursive, &attr).attempt(|| format!("set propagation of {}", self.name))
    }

    /// Gives it its place. It can be used on: the descriptor stays on the mount.
    pub fn attach(&self, target: BorrowedFd<'_>) -> Result<()> {
        sys::move_mount(self.fd.as_fd(), target).attempt(|| format!("attach {}", self.name))
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A new file system that is still to be mounted, once.
#[derive(Debug)]
pub struct Unmounted {
    fd: OwnedFd,
    /// For errors.
    name: String,
}

impl Unmounted {
    /// Of type `kind`, with its own options (`key=value` or `flag`). Errors: `Unsupported` for a type that the kernel does not know.
    pub fn new(kind: &str, source: &str, options: &[String]) -> Result<Unmounted> {
        let name = format!("file system {kind}");
        let what = || format!("make {name} with options \"{}\"", options.join(","));
        let fs = match sys::fsopen(&c_string(kind)?) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                return Err(e).context(Kind::Unsupported, || format!("{name} is not known to this kernel"));
            }
            other => other.attempt(what)?,
        };
        sys::fsconfig(fs.as_fd(), Some(c"source"), Some(&c_string(source)?)).attempt(what)?;
        for option in options {
            let what = || format!("set option \"{option}\" of {name}");
            match option.split_once('=') {
                Some((key, value)) => sys::fsconfig(fs.as_fd(), Some(&c_string(key)?), Some(&c_string(value)?)),
                None => sys::fsconfig(fs.as_fd(), Some(&c_string(option)?), None),
            }
            .attempt(what)?;
        }
        sys::fsconfig(fs.as_fd(), None, None).attempt(what)?;
        Ok(Unmounted { fd: fs, name })
    }

    /// Mounts it, nowhere yet.
    pub fn mount(self, attributes: u64) -> Result<Tree> {
        let fd = sys::fsmount(self.fd.as_fd(), attributes).attempt(|| format!("mount {}", self.name))?;
        Ok(Tree { fd, name: self.name })
    }
}

/// A string for the kernel. Errors: `Invalid` with a NUL in it.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|e| Error::new(Kind::Invalid, format!("{text:?} has a NUL")).because(e))
}

/// [`c_string`] of a path.
pub fn c_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|e| Error::new(Kind::Invalid, format!("{} has a NUL", path.display())).because(e))
}
