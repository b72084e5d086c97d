// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Interfaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::message::{u16_at, u32_at};
use crate::{Attributes, Mac, Message, Socket};

/// Fixed part: family, padding, hardware type, index, flags, mask of flags.
const FIXED: usize = 16;
const UP: u32 = libc::IFF_UP.cast_unsigned();
/// `IFLA_PERM_ADDRESS`, `IFLA_INET6_CONF`, `IFLA_INET6_ADDR_GEN_MODE`, `IN6_ADDR_GEN_MODE_NONE`, `DEVCONF_DISABLE_IPV6`.
const PERM_ADDRESS: u16 = 54;
const INET6_CONF: u16 = 2;
const INET6_ADDR_GEN_MODE: u16 = 8;
const GEN_MODE_NONE: u8 = 1;
const DISABLE_IPV6: usize = 26;
const AF_INET6: u16 = 10;

/// What the kernel says of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `ARPHRD_*`.
    pub hardware: u16,
    /// `IFF_*`.
    pub flags: u32,
    pub mac: Option<Mac>,
    /// The address that the device was made with.
    pub permanent: Option<Mac>,
    pub mtu: u32,
    /// The bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// IPv6 is not switched off.
    pub ipv6: bool,
}

impl Link {
    fn read(body: &[u8]) -> Option<Link> {
        let attributes = Attributes(body.get(FIXED..)?);
        let settings = attributes
            .find(libc::IFLA_AF_SPEC)
            .and_then(|families| Attributes(families).find(AF_INET6))
            .and_then(|inet6| Attributes(inet6).find(INET6_CONF));
        Some(Link {
            index: u32_at(body, 4)?,
            name: attributes.text(libc::IFLA_IFNAME)?,
            hardware: u16_at(body, 2)?,
            flags: u32_at(body, 8)?,
            mac: attributes.mac(libc::IFLA_ADDRESS),
            permanent: attributes.mac(PERM_ADDRESS),
            mtu: attributes.number(libc::IFLA_MTU).unwrap_or_default(),
            master: attributes.number(libc::IFLA_MASTER),
            ipv6: settings
                .and_then(|settings| u32_at(settings, 4 * DISABLE_IPV6))
                .is_some_and(|disabled| disabled == 0),
        })
    }

    /// All interfaces.
    pub fn all(socket: &mut Socket) -> io::Result<Vec<Link>> {
        let list = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; FIXED]);
        socket.list(&list, Link::read)
    }

    /// It is switched on.
    pub fn up(&self) -> bool {
        self.flags & UP != 0
    }

    /// Switches an interface on or off.
    pub fn set_up(socket: &mut Socket, index: u32, up: bool) -> io::Result<()> {
        socket.tell(change(index, if up { UP } else { 0 }, UP))
    }

    /// Gives it a name; it must be off.
    pub fn rename(socket: &mut Socket, index: u32, name: &str) -> io::Result<()> {
        let name = [name.as_bytes(), &[0]].concat();
        socket.tell(change(index, 0, 0).with(libc::IFLA_IFNAME, &name))
    }

    /// Moves it to the network namespace `to`, where it gets a name of `pattern` (`%d` is a number) if its own is taken. It is off
    /// there, without addresses, and may have another index.
    pub fn move_to(socket: &mut Socket, index: u32, to: BorrowedFd<'_>, pattern: &str) -> io::Result<()> {
        let pattern = [pattern.as_bytes(), &[0]].concat();
        let descriptor = u32::try_from(to.as_raw_fd()).map_err(io::Error::other)?;
        let moved = change(index, 0, 0).number(libc::IFLA_NET_NS_FD, descriptor);
        socket.tell(moved.with(libc::IFLA_IFNAME, &pattern))
    }

    /// Gives it a hardware address.
    pub fn set_mac(socket: &mut Socket, index: u32, mac: Mac) -> io::Result<()> {
        socket.tell(change(index, 0, 0).with(libc::IFLA_ADDRESS, &mac))
    }

    /// Sets the longest packet.
    pub fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
        socket.tell(change(index, 0, 0).number(libc::IFLA_MTU, mtu))
    }

    /// Keeps it from making itself an IPv6 address when it is switched on.
    pub fn without_own_address(socket: &mut Socket, index: u32) -> io::Result<()> {
        let mode = [GEN_MODE_NONE];
        socket.tell(change(index, 0, 0).nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(AF_INET6, |inet6| inet6.with(INET6_ADDR_GEN_MODE, &mode))
        }))
    }
}

fn change(index: u32, flags: u32, mask: u32) -> Message {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&mask.to_ne_bytes());
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &fixed)
}
