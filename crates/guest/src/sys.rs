// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::ForkResult;

fn checked(rc: libc::c_long) -> io::Result<libc::c_long> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn owned(rc: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(checked(rc)?).map_err(io::Error::other)?;
    // SAFETY: callers pass what a system call returned that makes a new descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that came with a message (SCM_RIGHTS).
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for the one message that is being received, and each is adopted once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// fork(2); the helper is single-threaded, so that the child may go on as an ordinary program.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: only the helper calls it, which has one thread: no lock can be held by another.
    unsafe { nix::unistd::fork() }
}

/// open_tree(2): a detached copy of the mount(s) at `path`.
pub fn open_tree(dir: RawFd, path: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    let flags = flags | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a string that lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// statx(2) that asks the file system, whatever the kernel remembers of the file.
pub fn ask_again(path: &CStr) -> io::Result<()> {
    let mut found = MaybeUninit::<libc::statx>::uninit();
    let (place, mask) = (libc::AT_FDCWD, libc::STATX_SIZE | libc::STATX_MTIME);
    // SAFETY: the path is a string and the structure has its size; both live through the call.
    checked(unsafe {
        let found = found.as_mut_ptr();
        libc::syscall(
            libc::SYS_statx,
            place,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC,
            mask,
            found,
        )
    })
    .map(drop)
}

/// Attaches the detached mount `tree` on what `target` is open on.
pub fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to, none) = (tree.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are the empty string constant.
    checked(unsafe { libc::syscall(libc::SYS_move_mount, from, none, to, none, flags) }).map(drop)
}

/// mount_setattr(2) on the mount that `tree` is open on.
pub fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (fd, none, size) = (tree.as_raw_fd(), c"".as_ptr(), size_of::<libc::mount_attr>());
    // SAFETY: the structure lives through the call and has the size that is told.
    checked(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, none, flags, std::ptr::from_ref(attr), size) })
        .map(drop)
}

/// fsopen(2), close-on-exec.
pub fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string that lives through the call; 1 is FSOPEN_CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })
}

/// fsconfig(2): a flag (no value), a string, or with no key the command to create.
pub fn fsconfig(fs: BorrowedFd<'_>, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
    const SET_FLAG: libc::c_int = 0;
    const SET_STRING: libc::c_int = 1;
    const CREATE: libc::c_int = 6;
    let command = match (key, value) {
        (None, _) => CREATE,
        (Some(_), None) => SET_FLAG,
        (Some(_), Some(_)) => SET_STRING,
    };
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let (fd, key, value) = (fs.as_raw_fd(), pointer(key), pointer(value));
    // SAFETY: key and value are null or strings that live through the call, as the command demands.
    checked(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) }).map(drop)
}

/// fsmount(2): the detached mount of a configured file system, close-on-exec.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers only; 1 is FSMOUNT_CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attributes) })
}

/// bpf(2) with an attribute structure of the command's layout.
pub fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the structure lives through the call and has the size that is told.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

/// bpf(2) for a command that makes a descriptor.
pub fn bpf_open<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    owned(bpf(command, attr)?)
}

/// seccomp(2): installs the filter on this thread.
pub fn seccomp(filter: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let len = libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` instructions that the kernel copies and does not change.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, std::ptr::from_ref(&program)) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    let (last, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: marking changes no descriptor that is in use.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// prlimit(2): sets a limit of a process.
pub fn prlimit(pid: i32, resource: libc::__rlimit_resource_t, limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the limit lives through the call, and no old limit is asked for.
    checked(unsafe { libc::prlimit(pid, resource, limit, std::ptr::null_mut()) }.into()).map(drop)
}

/// Unlocks the terminal behind `master` and opens its other end.
pub fn pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (fd, unlock) = (master.as_raw_fd(), 0 as libc::c_int);
    // SAFETY: the request reads one integer, which lives through the call.
    checked(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    // SAFETY: the request takes open flags by value and makes a descriptor.
    owned(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) }.into())
}

/// The terminal's size in characters.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads the structure, which lives through the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Makes the terminal the controlling one of this session.
pub fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes an integer by value.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// setdomainname(2).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are of one string.
    checked(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// sched_setattr(2) on this thread.
pub fn sched_setattr(attr: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the structure lives through the call and says its own size.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) }).map(drop)
}

/// ioprio_set(2) on this process.
pub fn ioprio_set(priority: libc::c_int) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes integers only.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) }).map(drop)
}

/// Gives every signal its default again; the runtime of our language ignores SIGPIPE.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default disposition runs no code of ours; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
