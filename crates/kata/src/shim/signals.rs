// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Every signal that can be caught, as something to poll; the real-time ones too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base::{Context, Result};

use super::sys;

/// What must keep its meaning: faults of our own, and the death of children.
const OURS: [libc::c_int; 8] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGCHLD,
];

/// Size of the kernel's `signalfd_siginfo`; its first word is the number.
const RECORD: usize = 128;

/// Signals are blocked for this thread and come here instead, until it is dropped.
pub struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signals").field(&self.fd).finish()
    }
}

impl Signals {
    /// Takes them over.
    pub fn take() -> Result<Signals> {
        let (set, before) = sys::block_all_but(&OURS).attempt(|| "block signals".into())?;
        match sys::signalfd(&set).attempt(|| "make a signalfd".into()) {
            Ok(fd) => Ok(Signals { fd, before }),
            Err(e) => {
                sys::restore(&before);
                Err(e)
            }
        }
    }

    /// The next one that has come, if any.
    pub fn next(&self) -> Option<i32> {
        let mut record = [0; RECORD];
        match nix::unistd::read(&self.fd, &mut record) {
            Ok(RECORD) => {
                let [a, b, c, d, ..] = record;
                i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok()
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What is pending would now kill us: it was meant for the container, which is gone.
        while self.next().is_some() {}
        sys::restore(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_to_the_thread_are_read_in_order_of_number() {
        let signals = Signals::take().unwrap();
        assert_eq!(signals.next(), None);
        for signal in [libc::SIGRTMIN() + 3, libc::SIGTERM] {
            // SAFETY: a signal to our own thread, where it is blocked.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal) }, 0);
        }
        assert_eq!(signals.next(), Some(libc::SIGTERM));
        assert_eq!(signals.next(), Some(libc::SIGRTMIN() + 3));
        assert_eq!(signals.next(), None);
    }
}
