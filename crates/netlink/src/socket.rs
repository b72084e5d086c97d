// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A conversation with the kernel: it stays in the network namespace in which it was opened.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use base::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto, socket,
};

use crate::message::{self, Message, Received, u32_at};

/// The kernel's datagrams are not longer (`NLMSG_GOODSIZE` and what `recvmsg` may ask for).
const DATAGRAM: usize = 1 << 16;
/// A listing is asked for again when it changed meanwhile.
const TRIES: usize = 10;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const INTERRUPTED: u16 = 0x10;

fn open(flags: SockFlag, groups: u32) -> Result<OwnedFd> {
    let what = || "open a netlink socket".to_owned();
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .attempt(what)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).attempt(what)?;
    Ok(fd)
}

/// Receives a datagram of the kernel into `buffer`; what others send is passed over.
fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let (length, from) = recvfrom::<NetlinkAddr>(fd.as_raw_fd(), buffer)?;
        if from.is_some_and(|from| from.pid() == 0) {
            return Ok(length);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// In the network namespace of this thread.
    pub fn open() -> Result<Socket> {
        Ok(Socket {
            fd: open(SockFlag::empty(), 0)?,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Has the kernel do what `message` says. Errors: the kernel's.
    pub fn tell(&mut self, message: Message) -> io::Result<()> {
        self.send(message)?;
        self.answers(|_| {}).map(drop)
    }

    /// Everything of a kind that the kernel lists for `message`, through `read`.
    pub fn list<T>(&mut self, message: &Message, mut read: impl FnMut(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..TRIES {
            let mut all = Vec::new();
            self.send(message.clone())?;
            let whole = self.answers(|body| all.extend(read(body)))?;
            if whole {
                return Ok(all);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.bytes(self.sequence);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Takes answers up to the last. False when a listing has holes.
    fn answers(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let length = receive(self.fd.as_fd(), &mut self.buffer)?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            for Received {
                kind,
                flags,
                sequence,
                body,
            } in message::received(datagram)
            {
                if sequence != self.sequence {
                    continue;
                }
                whole &= flags & INTERRUPTED == 0;
                match kind {
                    DONE => return Ok(whole),
                    ERROR => {
                        let code = u32_at(body, 0).map_or(libc::EPROTO, |code| -code.cast_signed());
                        return match code {
                            0 => Ok(whole),
                            code => Err(io::Error::from_raw_os_error(code)),
                        };
                    }
                    _ => take(body),
                }
            }
        }
    }
}

/// A socket that is readable when interfaces, addresses or routes of the network namespace of this thread change. It does not
/// block.
pub fn watch() -> Result<OwnedFd> {
    const GROUPS: i32 = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    open(SockFlag::SOCK_NONBLOCK, GROUPS.cast_unsigned())
}

/// Takes all that there is to read from a [`watch`]. What it says does not matter: whoever is told looks again.
pub fn drain(watch: BorrowedFd<'_>) {
    let mut buffer = [0; 4096];
    // More changes than the socket's memory holds are changes, too.
    while !matches!(receive(watch, &mut buffer), Err(e) if e.raw_os_error() != Some(libc::ENOBUFS)) {}
}
