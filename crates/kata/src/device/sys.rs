// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors by number, and the allocator's settings.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of a descriptor that the parent left open for us, and closes it at exec. Errors: it is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call reads and writes no memory; a number that is not open gives an error.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, the command line gave it to us, and each number is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// One arena for all threads, given back early: many such processes share a host.
pub fn spare_memory() {
    // SAFETY: mallopt takes numbers only; no other thread runs yet. A refusal costs memory, no more.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}
