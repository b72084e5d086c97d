// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One process of a container, from its creation until the host has it removed: how it ended, its streams, its terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use base::{Context, Error, Kind, Result};

use crate::reaper::{Ended, Exit, Launch, OomKilled};
use crate::stdio::{Claims, End, Stdio};
use crate::sys;

/// See above.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    ended: Ended,
    streams: Claims,
    /// Closed when nobody holds its stream any more: then the terminal hangs up.
    terminal: Option<Weak<OwnedFd>>,
}

impl Process {
    /// What was launched.
    pub fn new(launch: Launch, process: guest::Process, stdio: Stdio, oom_killed: OomKilled) -> Process {
        let guest::Process { pid, console } = process;
        let console = console.map(Arc::new);
        Process {
            pid,
            ended: launch.done(pid, oom_killed),
            terminal: console.as_ref().map(Arc::downgrade),
            streams: stdio.claims(console.as_ref()),
        }
    }

    /// In the guest's root pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.ended.borrow()
    }

    /// Tells when it has ended.
    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Takes a stream, see [`Claims::claim`].
    pub fn claim(&self, fd: u8) -> Result<End> {
        self.streams.claim(fd)
    }

    /// Sets the terminal's size. Errors: `State` without a terminal, `Gone` when it has hung up.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let what = || format!("resize the terminal of process {}", self.pid);
        let Some(terminal) = &self.terminal else {
            return Err(Error::new(Kind::State, what()).because("it has none"));
        };
        let Some(terminal) = terminal.upgrade() else {
            return Err(Error::new(Kind::Gone, what()).because("it has hung up"));
        };
        let bound = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
        sys::set_terminal_size(terminal.as_fd(), bound(height), bound(width)).attempt(what)
    }
}
