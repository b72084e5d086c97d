// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Tap interfaces: the machine's end of each network device. One goes with the last descriptor of it.

use std::fs::File;
use std::os::fd::OwnedFd;
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
        let name = sys::make_tap(&tun, &format!("{PREFIX}%d")).attempt(what)?;
        let index = if_nametoindex(name.as_str()).attempt(what)?;
        // The guest speaks on it, not this kernel.
        if let Err(e) = Link::without_own_address(socket, index) {
            log::debug!("keep {name} without an IPv6 address: {e}");
        }
        Ok(Tap {
            index,
            descriptor: Arc::new(tun.into()),
        })
    }
}
