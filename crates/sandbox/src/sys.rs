// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// mount_setattr(2): makes the mount at `path` read-only, with those below if `recursive`; other attributes stay.
pub fn make_read_only(path: &CStr, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    let (dir, size) = (libc::AT_FDCWD, size_of::<libc::mount_attr>());
    // SAFETY: the path is a string and the structure has the size that is told; both live through the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            &raw const attr,
            size,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// open_tree(2): a detached copy of the mount at `path`, with those below if `recursive`.
pub fn copy_tree(path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let below = if recursive {
        libc::AT_RECURSIVE.cast_unsigned()
    } else {
        0
    };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | below;
    // SAFETY: the path is a string that lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    match libc::c_int::try_from(fd) {
        // SAFETY: the kernel has just made it for us, nobody else knows it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// mount_setattr(2): what is mounted where the detached `tree` was copied from appears in it, and nothing goes back.
pub fn follow(tree: BorrowedFd<'_>) -> io::Result<()> {
    propagate(tree, libc::MS_SLAVE)
}

/// mount_setattr(2): nothing that is mounted where the detached `tree` was copied from appears in it any more.
pub fn leave(tree: BorrowedFd<'_>) -> io::Result<()> {
    propagate(tree, libc::MS_PRIVATE)
}

fn propagate(tree: BorrowedFd<'_>, how: u64) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: how,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let (fd, none, size) = (tree.as_raw_fd(), c"".as_ptr(), size_of::<libc::mount_attr>());
    // SAFETY: the path is a constant and the structure has the size that is told; it lives through the call.
    let rc = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, none, flags, &raw const attr, size) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// move_mount(2): attaches the detached `tree` at `target`.
pub fn attach_tree(tree: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    let (from, none, here) = (tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD);
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: both paths are strings that live through the call.
    let rc = unsafe { libc::syscall(libc::SYS_move_mount, from, none, here, target.as_ptr(), flags) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Tells when `fd` is readable.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the watcher owns the descriptor, which therefore stays open and the same.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}
