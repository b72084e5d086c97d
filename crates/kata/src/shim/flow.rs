// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bytes from one descriptor to another, never waiting in a read or write: the loop that polls must stay free for signals.
//!
//! ```text
//! reading ──EOF──► draining ──buffer empty──► over
//!    └───────the reader of `to` has gone───────┘
//! ```

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::isatty;

const BUFFER: usize = 64 << 10;
/// What a pipe that polls as writable takes at once without blocking (`PIPE_BUF`).
const SMALL: usize = 4096;

/// How to write without blocking and without touching flags that other processes share with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A socket: the flag goes with the call.
    Socket,
    /// A file, or a description of our own with `O_NONBLOCK`.
    Free,
    /// A shared description: no more than surely fits.
    Small,
}

/// See the module.
#[derive(Debug)]
pub struct Flow {
    from: OwnedFd,
    to: OwnedFd,
    manner: Manner,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    stage: Stage,
    /// The end of `from` is passed on by shutting down `to`'s writing side.
    half_close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    Draining,
    Over,
}

impl Flow {
    /// From `from` to `to`; `half_close` shuts `to` (a socket) down for writing when `from` has ended.
    pub fn new(from: OwnedFd, to: OwnedFd, half_close: bool) -> Flow {
        let (to, manner) = manner(to);
        Flow {
            from,
            to,
            manner,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            stage: Stage::Reading,
            half_close,
        }
    }

    /// Nothing will flow any more.
    pub fn over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Nothing is on its way between the two.
    pub fn empty(&self) -> bool {
        self.start == self.end
    }

    /// What to poll: source and destination. The destination is always watched, for its reader may go.
    pub fn poll(&self) -> [PollFd<'_>; 2] {
        let reads = self.stage == Stage::Reading && self.empty();
        let input = if reads { PollFlags::POLLIN } else { PollFlags::empty() };
        let output = if self.empty() {
            PollFlags::empty()
        } else {
            PollFlags::POLLOUT
        };
        [
            PollFd::new(self.from.as_fd(), input),
            PollFd::new(self.to.as_fd(), output),
        ]
    }

    /// Whether the source should be in the poll set: one that hung up would wake the loop for ever.
    pub fn reads(&self) -> bool {
        self.stage == Stage::Reading && self.empty()
    }

    /// Moves what can be moved; true when something happened.
    pub fn step(&mut self, from: PollFlags, to: PollFlags) -> bool {
        if self.over() {
            return false;
        }
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if self.empty() && to.intersects(gone) {
            self.broken();
            return true;
        }
        let mut moved = false;
        if self.reads() && !from.is_empty() {
            self.read();
            moved = true;
        }
        if !self.empty() && (moved || !to.is_empty()) {
            self.write();
            moved = true;
        }
        if self.stage == Stage::Draining && self.empty() {
            if self.half_close {
                let _ = shutdown(self.to.as_raw_fd(), Shutdown::Write);
            }
            self.stage = Stage::Over;
        }
        moved
    }

    fn read(&mut self) {
        match nix::unistd::read(&self.from, &mut self.buffer) {
            Ok(0) => self.stage = Stage::Draining,
            Ok(n) => (self.start, self.end) = (0, n),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // A terminal whose other side was closed says EIO, a connection that broke ECONNRESET: nothing more comes.
            Err(_) => self.stage = Stage::Draining,
        }
    }

    fn write(&mut self) {
        let bytes = &self.buffer[self.start..self.end];
        let written = match self.manner {
            Manner::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.to.as_raw_fd(), bytes, flags)
            }
            Manner::Free => nix::unistd::write(&self.to, bytes),
            Manner::Small => nix::unistd::write(&self.to, &bytes[..bytes.len().min(SMALL)]),
        };
        match written {
            Ok(n) => self.start += n,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.broken(),
        }
    }

    /// Whoever read has gone: the writer shall know.
    fn broken(&mut self) {
        (self.start, self.end) = (0, 0);
        self.stage = Stage::Over;
        let _ = shutdown(self.from.as_raw_fd(), Shutdown::Both);
    }
}

fn manner(to: OwnedFd) -> (OwnedFd, Manner) {
    let kind = fstat(&to).map_or(0, |stat| stat.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFSOCK.bits() {
        return (to, Manner::Socket);
    }
    if kind != SFlag::S_IFIFO.bits() && !isatty(&to).unwrap_or(false) {
        return (to, Manner::Free);
    }
    match reopened(to.as_fd()) {
        Ok(own) => (own, Manner::Free),
        // Not ours to open: a pipe of another user, a terminal of another mount namespace.
        Err(_) => (to, Manner::Small),
    }
}

fn reopened(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::poll::{PollTimeout, poll};

    use super::*;

    fn turn(flow: &mut Flow) -> bool {
        let [from, to] = flow.poll();
        let mut fds = if flow.reads() { vec![to, from] } else { vec![to] };
        poll(&mut fds, PollTimeout::from(10_u16)).unwrap();
        let to = fds[0].revents().unwrap();
        let from = fds.get(1).map_or(PollFlags::empty(), |fd| fd.revents().unwrap());
        flow.step(from, to)
    }

    #[test]
    fn everything_arrives_and_the_end_is_passed_on() {
        let (mut source, from) = UnixStream::pair().unwrap();
        let (to, mut sink) = UnixStream::pair().unwrap();
        let mut flow = Flow::new(from.into(), to.into(), true);
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || source.write_all(&copy).unwrap());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).unwrap();
            got
        });
        while !flow.over() {
            turn(&mut flow);
        }
        writer.join().unwrap();
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn a_pipe_that_is_full_does_not_block_us_and_keeps_its_flags() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let shared = writer.try_clone().unwrap();
        let (mut source, from) = UnixStream::pair().unwrap();
        source.set_nonblocking(true).unwrap();
        let mut flow = Flow::new(from.into(), writer, false);
        let mut sent = 0;
        while let Ok(n) = source.write(&[7; 4096]) {
            sent += n;
            while turn(&mut flow) {}
        }
        assert!(sent > 64 << 10, "pipe and buffers are full after {sent} bytes");
        let flags = fcntl(&shared, FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
        drop(reader);
        turn(&mut flow);
        assert!(flow.over(), "the reader has gone");
        drop(shared);
        assert_eq!(source.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_reader_that_goes_while_nothing_flows_is_noticed() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let (_source, from) = UnixStream::pair().unwrap();
        let mut flow = Flow::new(from.into(), writer, false);
        assert!(!turn(&mut flow));
        drop(reader);
        assert!(turn(&mut flow));
        assert!(flow.over());
    }
}
