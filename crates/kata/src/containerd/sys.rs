// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors in places that a program expects.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Places that nobody uses for the moment.
const FREE: RawFd = 64;

/// Puts `descriptors` at `first` and the following numbers, open for the program that we become. Nothing of ours may be there.
pub fn place<const N: usize>(descriptors: [OwnedFd; N], first: RawFd) -> io::Result<()> {
    let mut away = [0; N];
    for (place, fd) in away.iter_mut().zip(&descriptors) {
        *place = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FREE))?;
    }
    drop(descriptors);
    for (from, to) in away.into_iter().zip(first..) {
        // SAFETY: the call takes integers; the caller says that what it closes at `to` belongs to nobody.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
