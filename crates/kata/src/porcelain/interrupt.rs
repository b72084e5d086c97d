// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Ctrl-C (and TERM, HUP) while a container is being made: the work is asked to stop, and what waits for a monitor gets an end of
//! file, so that all is undone by its guards. The second one ends us at once.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base::{Context, Error, Kind, Result};
use image::Cancel;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Watches from its making to its end. The signals stay blocked in the thread that made it: whoever takes over finds those that
/// came meanwhile.
#[derive(Debug)]
pub struct Interrupt {
    shared: Arc<Shared>,
    /// Dropping it ends the thread.
    awake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    cancel: Cancel,
    caught: AtomicI32,
    /// Only ever taken alone.
    lease: Mutex<Option<UnixStream>>,
}

impl Shared {
    fn caught(&self, signal: i32) {
        if self.caught.swap(signal, Ordering::SeqCst) != 0 {
            std::process::exit(128 + signal);
        }
        self.cancel.set();
        if let Ok(lease) = self.lease.lock() {
            self.cut(lease.as_ref());
        }
    }

    fn cut(&self, lease: Option<&UnixStream>) {
        if let Some(lease) = lease {
            let _ = lease.shutdown(Shutdown::Write);
        }
    }
}

impl Interrupt {
    pub fn watch() -> Result<Interrupt> {
        let what = || "watch for signals".to_owned();
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block().attempt(what)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).attempt(what)?;
        let (awake, theirs) = UnixStream::pair().attempt(what)?;
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listen(&signals, &theirs, &told));
        Ok(Interrupt {
            shared,
            awake: Some(awake),
            thread: Some(thread),
        })
    }

    /// For work that looks at it now and then.
    pub fn cancel(&self) -> Cancel {
        self.shared.cancel.clone()
    }

    /// A signal cuts the lease with this socket, too. Errors: `Gone` when one has come already.
    pub fn cuts(&self, socket: UnixStream) -> Result<()> {
        if let Ok(mut held) = self.shared.lease.lock() {
            *held = Some(socket);
        }
        self.shared.cancel.check()
    }

    /// The signal that has come.
    pub fn caught(&self) -> Option<i32> {
        Some(self.shared.caught.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// No longer watches. Errors: `Gone` when a signal has come.
    pub fn end(&mut self) -> Result<()> {
        self.awake = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            ended.map_err(|_| Error::new(Kind::Bug, "watch for signals"))?;
        }
        self.shared.cancel.check()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn listen(signals: &SignalFd, awake: &UnixStream, told: &Shared) {
    loop {
        let mut fds = [signals.as_fd(), awake.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let [signalled, ended] = fds.map(|fd| fd.any().unwrap_or(true));
        if ended {
            return;
        }
        if signalled && let Ok(Some(record)) = signals.read_signal() {
            told.caught(i32::try_from(record.ssi_signo).unwrap_or(Signal::SIGINT as i32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_stop_reaches_the_work_and_the_lease() {
        let mut interrupt = Interrupt::watch().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        interrupt.cuts(ours).unwrap();
        assert_eq!(interrupt.caught(), None);
        // As the watching thread does: a signal to the process could end the other tests.
        interrupt.shared.caught(15);
        let mut none = [0; 1];
        assert_eq!(std::io::Read::read(&mut theirs, &mut none).unwrap(), 0);
        assert_eq!(interrupt.caught(), Some(15));
        assert_eq!(interrupt.end().unwrap_err().kind(), Kind::Gone);
        assert_eq!(interrupt.end().unwrap_err().kind(), Kind::Gone);
    }
}
