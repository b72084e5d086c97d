// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One stream between a Unix socket and a port of the guest, with credit in both directions.
//!
//! ```text
//! Asked ──RESPONSE──► Up ──SHUTDOWN or end of file on each side──► gone
//! ```
//! Guest to host: at most [`BUFFER`] bytes wait here; the guest knows from `fwd_cnt` how many we took. Host to guest: nothing waits
//! here; bytes are read from the socket straight into the guest's buffer when it has credit.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::packet::{Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Bytes from the guest that may wait for a slow host program.
pub const BUFFER: u32 = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The guest was asked and has not answered.
    Asked,
    Up,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lives,
    /// Both directions have ended, or one broke: the guest gets a reset.
    Over,
}

#[derive(Debug)]
pub struct Connection {
    pub stream: UnixStream,
    pub phase: Phase,
    /// When the guest's driver took our question; before, it may not even be loaded.
    pub asked: Option<Instant>,
    /// Guest's buffer, and how much of what we sent it has taken (both wrap).
    guest_alloc: u32,
    guest_taken: u32,
    sent: u32,
    /// What we took of the guest's bytes, and what of it the guest knows.
    taken: u32,
    told: u32,
    waiting: VecDeque<u8>,
    /// The host program has closed its sending side, and the guest was told.
    host_ended: bool,
    /// The guest sends no more; passed on when `waiting` is empty.
    guest_ended: bool,
    guest_deaf: bool,
    /// The socket may have bytes (or its end) for the guest: set by an event, cleared when a read would block.
    pub ready: bool,
    /// The host program has closed its socket altogether.
    pub gone: bool,
}

impl Connection {
    pub fn new(stream: UnixStream, phase: Phase) -> Connection {
        Connection {
            stream,
            phase,
            asked: None,
            guest_alloc: 0,
            guest_taken: 0,
            sent: 0,
            taken: 0,
            told: 0,
            waiting: VecDeque::new(),
            host_ended: false,
            guest_ended: false,
            guest_deaf: false,
            ready: false,
            gone: false,
        }
    }

    /// Each packet of the guest tells its buffer.
    pub fn credit(&mut self, header: &Header) {
        self.guest_alloc = header.buf_alloc;
        self.guest_taken = header.fwd_cnt;
    }

    /// Bytes that the guest takes now. A guest that lies gets more or less than it has room for; it hurts only itself.
    fn room(&self) -> usize {
        let flying = self.sent.wrapping_sub(self.guest_taken);
        usize::try_from(self.guest_alloc.saturating_sub(flying)).unwrap_or(0)
    }

    /// Has a place in the line for the guest's buffers.
    pub fn readable(&self) -> bool {
        self.ready && self.phase == Phase::Up && !self.host_ended && !self.guest_deaf && self.room() > 0
    }

    /// Reads for the guest into `into`. `Ok(None)`: nothing now. `Ok(Some(0))`: end of file, to be told once.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, Fate> {
        let len = into.len().min(self.room());
        loop {
            match self.stream.read(&mut into[..len]) {
                Ok(0) => {
                    self.host_ended = true;
                    return Ok(Some(0));
                }
                Ok(n) => {
                    self.sent = self.sent.wrapping_add(u32::try_from(n).unwrap_or(0));
                    return Ok(Some(n));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.ready = false;
                    return Ok(None);
                }
                Err(_) => return Err(Fate::Over),
            }
        }
    }

    /// Bytes from the guest. More than its credit breaks the connection.
    pub fn write(&mut self, bytes: &[u8]) -> Fate {
        if self.guest_ended {
            return Fate::Over;
        }
        let most = usize::try_from(BUFFER).unwrap_or(0);
        let mut rest = bytes;
        while self.waiting.is_empty() && !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => {
                    self.taken = self.taken.wrapping_add(u32::try_from(n).unwrap_or(0));
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Fate::Over,
            }
        }
        if self.waiting.len() + rest.len() > most {
            return Fate::Over;
        }
        self.waiting.extend(rest);
        Fate::Lives
    }

    /// Passes on what waits, then the guest's end of file.
    pub fn flush(&mut self) -> Fate {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match self.stream.write(front) {
                Ok(n) => {
                    self.waiting.drain(..n);
                    self.taken = self.taken.wrapping_add(u32::try_from(n).unwrap_or(0));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Lives,
                Err(_) => return Fate::Over,
            }
        }
        if self.waiting.capacity() > 64 << 10 {
            self.waiting.shrink_to(0);
        }
        if self.guest_ended {
            let _ = self.stream.shutdown(Shutdown::Write);
            if self.host_ended || self.guest_deaf {
                return Fate::Over;
            }
        }
        Fate::Lives
    }

    /// The guest shuts down one or both directions.
    pub fn shutdown(&mut self, flags: u32) -> Fate {
        self.guest_deaf |= flags & SHUTDOWN_RECEIVE != 0;
        self.guest_ended |= flags & SHUTDOWN_SEND != 0;
        self.flush()
    }

    /// The guest should hear how much we took: it knows of less than half of its buffer.
    pub fn owes_credit(&self) -> bool {
        self.taken.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// For the header of a packet that goes to the guest.
    pub fn tell(&mut self) -> u32 {
        self.told = self.taken;
        self.taken
    }
}
