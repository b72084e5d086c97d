// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor that a message has just brought.
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made it for this process while it received the message, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Our own priority.
pub fn priority() -> i32 {
    // SAFETY: the call takes numbers only; for ourselves it cannot fail.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Gives the thread `id` the priority `nice`.
pub fn set_priority(id: i32, nice: i32) -> io::Result<()> {
    let who = libc::id_t::try_from(id).map_err(io::Error::other)?;
    // SAFETY: the call takes numbers only.
    let rc = unsafe { libc::setpriority(libc::PRIO_PROCESS, who, nice) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
