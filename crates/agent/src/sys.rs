// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest::cgroup::OomWatch;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn checked(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// Takes one child that has ended: its pid and its status as wait(2) gives it. Not nix's, which loses a child that ended by a
/// real-time signal.
pub fn reap_one() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Mixes `bytes` into the kernel's random numbers, credits them fully, and has the generator use them at once.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    const RESEED: libc::Ioctl = 0x5207;
    const ADD: libc::Ioctl = 0x4008_5203;
    let size = i32::try_from(bytes.len()).map_err(io::Error::other)?;
    let bits = size.saturating_mul(8);
    // struct rand_pool_info
    let mut pool = [bits.to_ne_bytes(), size.to_ne_bytes()].concat();
    pool.extend_from_slice(bytes);
    // SAFETY: the structure says its own length and lives through the call.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), ADD, pool.as_ptr()) })?;
    // SAFETY: the request takes no argument.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RESEED) }).map(drop)
}

/// The terminal's size in characters; its processes are told.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads the structure, which lives through the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Makes a part of a block device another one, by `number`; where it begins, and its length, in bytes.
pub fn add_partition(device: BorrowedFd<'_>, number: i32, start: u64, length: u64) -> io::Result<()> {
    const REQUEST: libc::Ioctl = 0x1269;
    const ADD: libc::c_int = 1;
    // Linux, include/uapi/linux/blkpg.h
    #[repr(C)]
    struct Partition {
        start: i64,
        length: i64,
        number: libc::c_int,
        names: [u8; 128],
    }
    #[repr(C)]
    struct Argument {
        operation: libc::c_int,
        flags: libc::c_int,
        length: libc::c_int,
        data: *const Partition,
    }
    let partition = Partition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number,
        names: [0; 128],
    };
    let argument = Argument {
        operation: ADD,
        flags: 0,
        length: i32::try_from(size_of::<Partition>()).map_err(io::Error::other)?,
        data: &raw const partition,
    };
    // SAFETY: the request reads both structures, which live through the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), REQUEST, &raw const argument) }).map(drop)
}

/// Switches on the loopback interface; its addresses come with that.
pub fn loopback_up() -> io::Result<()> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the request reads the structure, which lives through the call.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// Has the runtime tell when the terminal can be read or written.
pub fn watch_terminal(master: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned, and neither closed nor replaced while this holds a share of it.
    Ok(unsafe { AsyncFd::register(master) }?)
}

/// Has the runtime tell when kills for want of memory may have happened.
pub fn watch_oom(watch: OomWatch) -> io::Result<AsyncFd<OomWatch>> {
    // SAFETY: the watch owns its descriptor, and neither closes nor replaces it before it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?)
}
