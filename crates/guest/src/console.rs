// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The terminal of a process: a pty of the container's own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base::{Context, Kind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use oci_spec::runtime::Spec;

use crate::sys;

/// Both ends.
#[derive(Debug)]
pub struct Console {
    /// For the agent.
    pub master: OwnedFd,
    /// For the process.
    pub peer: OwnedFd,
}

impl Console {
    /// Makes a pty in the container whose root is `root`, with the size that the process asks for. Errors:
    /// `Invalid` when the container has no devpts.
    pub fn open(root: BorrowedFd<'_>, spec: &Spec) -> Result<Console> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let master = openat2(root, "dev/pts/ptmx", how).context(Kind::Invalid, || {
            "open /dev/pts/ptmx of the container, which wants a terminal".into()
        })?;
        let peer = sys::pty_peer(master.as_fd()).attempt(|| "open the terminal".into())?;
        let size = spec.process().as_ref().and_then(|process| process.console_size());
        if let Some(size) = size {
            let bound = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            sys::set_terminal_size(master.as_fd(), bound(size.height()), bound(size.width()))
                .attempt(|| "set the terminal's size".into())?;
        }
        Ok(Console { master, peer })
    }
}
