// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls of the shim that have no safe wrapper in our libraries: terminal requests, and all signals as a descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

fn done(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<Size> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one winsize, which outlives the call.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

pub fn resize(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one winsize, which outlives the call.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Makes the terminal the controlling one of our session, whose leader we must be.
pub fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes an integer and touches no memory of ours.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Blocks every signal in `but`'s complement for this thread; what was blocked before is returned.
pub fn block_all_but(but: &[libc::c_int]) -> io::Result<(libc::sigset_t, libc::sigset_t)> {
    // SAFETY: a sigset_t is plain integers, for which zeroes are a value; the calls below set it up.
    let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: set is ours and outlives the call.
    done(unsafe { libc::sigfillset(&raw mut set) })?;
    for signal in but {
        // SAFETY: as above; an invalid number gives an error and changes nothing.
        done(unsafe { libc::sigdelset(&raw mut set, *signal) })?;
    }
    // SAFETY: both sets are ours and outlive the call.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
    if rc == 0 {
        Ok((set, before))
    } else {
        Err(io::Error::from_raw_os_error(rc))
    }
}

pub fn restore(mask: &libc::sigset_t) {
    // SAFETY: mask was filled in by the kernel; a null pointer asks for nothing back.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

pub fn signalfd(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: the set outlives the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    done(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks all descriptors from 3 on as not to be inherited: what the engine left open is none of our children's.
pub fn keep_descriptors_to_ourselves() {
    let flags = libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: the call takes integers; it only sets flags. Kernels before 5.11 refuse, and nothing is lost.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) };
}
