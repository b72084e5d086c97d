// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A process held by descriptor: no pid is ever reused under us.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::{Context, Kind, Result, sys};

/// `pidfd_open(2)`. Readable when the process has ended.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: i32,
}

impl Pidfd {
    /// Holds the process that has `pid` now. Errors: `NotFound` when there is none.
    pub fn open(pid: i32) -> Result<Pidfd> {
        let fd = match sys::pidfd_open(pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                Err(e).context(Kind::NotFound, || format!("open process {pid}"))
            }
            other => other.attempt(|| format!("open process {pid}")),
        }?;
        Ok(Pidfd { fd, pid })
    }

    /// The pid that it was opened with.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal. Errors: `Gone` when the process has ended and was reaped.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::pidfd_send_signal(self.fd.as_raw_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                Err(e).context(Kind::Gone, || format!("signal process {}", self.pid))
            }
            other => other.attempt(|| format!("signal process {}", self.pid)),
        }
    }

    /// Waits until the process has ended; false when the time is up first. `None` waits for ever.
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        let millis = |limit: Duration| {
            let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        };
        let timeout = limit.map_or(PollTimeout::NONE, millis);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                Err(nix::Error::EINTR) => {}
                other => {
                    let n = other.attempt(|| format!("wait for process {}", self.pid))?;
                    return Ok(n > 0);
                }
            }
        }
    }

    /// Takes a child of ours off the list of processes, once it has ended: its exit code, 128+n after signal n. Errors: when it
    /// is no child of ours.
    pub fn reap(&self) -> Result<u8> {
        let what = || format!("reap process {}", self.pid);
        loop {
            let code = match waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => code,
                Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(e).attempt(what),
            };
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }

    /// SIGKILL, then waits for the end; fine when it has ended already.
    pub fn kill(&self) -> Result<()> {
        match self.signal(libc::SIGKILL) {
            Err(e) if e.kind() == Kind::Gone => return Ok(()),
            other => other?,
        }
        self.wait(None).map(|_| ())
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_seen_to_live_and_to_die() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = Pidfd::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!held.wait(Some(Duration::ZERO)).unwrap());
        held.kill().unwrap();
        assert_eq!(held.reap().unwrap(), 137);
        assert!(held.reap().is_err(), "no child any more");
        assert!(child.wait().is_err());
        assert_eq!(held.signal(libc::SIGTERM).unwrap_err().kind(), Kind::Gone);
        held.kill().unwrap();
    }
}
