// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Tap interfaces: the machine's end of each network device. One goes with the last descriptor of it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use base::{Context, Result};
use netlink::{Link, Socket};
use nix::net::if_::if_nametoindex;

use crate::sys;

const DEVICE: &str = "/dev/net/tun";
/// Also tells them from the engine's interfaces.
pub const PREFIX: &str = "kata";

/// See the module.
#[derive(Debug)]
pub struct Tap {
    /// In this network namespace.
    pub index: u32,
    /// For the machine.
    pub descriptor: Arc<OwnedFd>,
}

impl Tap {
    /// Makes one in the network namespace of this thread. It is off.
    pub fn make(socket: &mut Socket) -> Result<Tap> {
        let what = || format!("make a tap interface with {DEVICE}");
        let tun = File::options().read(true).write(true).open(DEVICE).attempt(what)?;
        sys::make_tap(&tun, &pattern()).attempt(what)?;
        let mut tap = Tap {
            index: 0,
            descriptor: Arc::new(tun.into()),
        };
        tap.found(socket)?;
        Ok(tap)
    }

    /// Takes it from the namespace of the socket `from` to that of this thread, which is `to` and that of the socket `there`. Whoever
    /// has its descriptor keeps it.
    pub fn bring(&mut self, from: &mut Socket, to: BorrowedFd<'_>, there: &mut Socket) -> Result<()> {
        let moved = Link::move_to(from, self.index, to, &pattern());
        moved.attempt(|| "move a tap interface to the container's network namespace".into())?;
        self.found(there)
    }

    fn found(&mut self, socket: &mut Socket) -> Result<()> {
        let what = || "find a tap interface".to_owned();
        let name = sys::tap_name(self.descriptor.as_fd()).attempt(what)?;
        self.index = if_nametoindex(name.as_str()).attempt(what)?;
        // The guest speaks on it, not this kernel.
        if let Err(e) = Link::without_own_address(socket, self.index) {
            log::debug!("keep {name} without an IPv6 address: {e}");
        }
        Ok(())
    }
}

fn pattern() -> String {
    format!("{PREFIX}%d")
}
