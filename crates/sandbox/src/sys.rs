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

/// fanotify_init(2): a group without marks, which tells of files by handles and names.
pub fn fanotify() -> io::Result<OwnedFd> {
    let how = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_MARKS;
    let tells = libc::FAN_REPORT_FID | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
    let flags = (libc::O_RDONLY | libc::O_LARGEFILE).cast_unsigned();
    // SAFETY: no memory of ours is given.
    let fd = unsafe { libc::fanotify_init(how | tells, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fanotify_mark(2): adds a mark on the file itself.
pub fn fanotify_mark(group: BorrowedFd<'_>, file: BorrowedFd<'_>, mask: u64) -> io::Result<()> {
    // SAFETY: without a path the descriptor itself is marked; no memory of ours is given.
    let rc = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            libc::FAN_MARK_ADD,
            mask,
            file.as_raw_fd(),
            std::ptr::null(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// name_to_handle_at(2): `struct file_handle` of an open file as bytes.
pub fn handle(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    /// With room for the longest.
    #[repr(C)]
    struct Handle {
        length: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; libc::MAX_HANDLE_SZ as usize],
    }
    let mut found = Handle {
        length: libc::MAX_HANDLE_SZ.cast_unsigned(),
        kind: 0,
        bytes: [0; libc::MAX_HANDLE_SZ as usize],
    };
    let (fd, mut mount) = (file.as_raw_fd(), 0);
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the structure has as many bytes as it says; it, the number and the path live through the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd,
            empty,
            &raw mut found,
            &raw mut mount,
            flags,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(found.length).unwrap_or(usize::MAX);
    let bytes = found.bytes.get(..length).unwrap_or_default();
    Ok([&found.length.to_ne_bytes()[..], &found.kind.to_ne_bytes(), bytes].concat())
}

/// Of the file system of an open file, as fanotify(7) tells it.
pub fn file_system_id(file: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the structure lives through the call.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers only, of which the kernel has set all that there are; the id is two of them.
    Ok(unsafe { std::mem::transmute_copy::<libc::fsid_t, [u8; 8]>(&found.assume_init().f_fsid) })
}

/// Tells when `fd` is readable.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the watcher owns the descriptor, which therefore stays open and the same.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// The number of a loop device that is free, which is made if need be (loop(4)).
pub fn free_loop(control: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    // SAFETY: no memory of ours is given.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

/// Makes a free loop device the block device of `file`, until nobody uses it any more (loop(4), Linux 5.8). Errors: `EBUSY` when it is not
/// free.
pub fn configure_loop(device: BorrowedFd<'_>, file: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    /// `struct loop_config`: the file, a block size, `struct loop_info64` of which the flags are of interest, eight numbers more.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        before: [u64; 5],
        encryption: [u32; 3],
        flags: u32,
        after: [u64; 30],
    }
    let config = Config {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        before: [0; 5],
        encryption: [0; 3],
        flags: AUTOCLEAR | if read_only { READ_ONLY } else { 0 },
        after: [0; 30],
    };
    // SAFETY: the structure has the size and layout that the call reads, and lives through it.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
