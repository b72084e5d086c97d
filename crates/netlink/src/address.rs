// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Addresses of interfaces.

use std::io;
use std::net::IpAddr;

use crate::message::{family, u32_at};
use crate::{Attributes, Message, Socket};

/// Fixed part: family, prefix length, flags, scope, index.
const FIXED: usize = 8;
/// Known to be unique: the kernel does not ask the network.
const NODAD: u32 = 0x02;
const PERMANENT: u32 = 0x80;
const NO_PREFIX_ROUTE: u32 = 0x200;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Of its interface.
    pub index: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    /// The other end's, on a line with two ends.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<IpAddr>,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Its network is not a route by itself.
    pub no_prefix_route: bool,
    /// Given by somebody, not learnt from a router for some time.
    pub permanent: bool,
}

impl Address {
    fn read(body: &[u8]) -> Option<Address> {
        let attributes = Attributes(body.get(FIXED..)?);
        let far = attributes.ip(libc::IFA_ADDRESS);
        let near = attributes.ip(libc::IFA_LOCAL);
        let ip = near.or(far)?;
        let flags = attributes.number(libc::IFA_FLAGS);
        let flags = flags.unwrap_or(u32::from(*body.get(2)?));
        Some(Address {
            index: u32_at(body, 4)?,
            ip,
            prefix: *body.get(1)?,
            peer: far.filter(|far| *far != ip),
            broadcast: attributes.ip(libc::IFA_BROADCAST),
            scope: *body.get(3)?,
            no_prefix_route: flags & NO_PREFIX_ROUTE != 0,
            permanent: flags & PERMANENT != 0,
        })
    }

    /// All addresses.
    pub fn all(socket: &mut Socket) -> io::Result<Vec<Address>> {
        let list = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; FIXED]);
        socket.list(&list, Address::read)
    }

    /// Gives it to its interface, or gives it once more.
    pub fn add(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE))
    }

    /// Takes it away.
    pub fn remove(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_DELADDR, 0))
    }

    fn message(&self, kind: u16, flags: i32) -> Message {
        let mut properties = if self.ip.is_ipv6() { NODAD } else { 0 };
        if self.no_prefix_route {
            properties |= NO_PREFIX_ROUTE;
        }
        let mut fixed = [family(self.ip), self.prefix, 0, self.scope, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&self.index.to_ne_bytes());
        Message::new(kind, flags | libc::NLM_F_ACK, &fixed)
            .ip(libc::IFA_LOCAL, Some(self.ip))
            .ip(libc::IFA_ADDRESS, Some(self.peer.unwrap_or(self.ip)))
            .ip(libc::IFA_BROADCAST, self.broadcast)
            .number(libc::IFA_FLAGS, properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for (ip, prefix, peer, broadcast) in [
            ("10.88.0.2", 16, None, Some("10.88.255.255")),
            ("10.0.0.1", 32, Some("10.0.0.2"), None),
            ("fd00::2", 64, None, None),
        ] {
            let address = Address {
                index: 7,
                ip: ip.parse().unwrap(),
                prefix,
                peer: peer.map(|ip| ip.parse().unwrap()),
                broadcast: broadcast.map(|ip: &str| ip.parse().unwrap()),
                scope: 0,
                no_prefix_route: prefix == 32,
                permanent: false,
            };
            let bytes = address.message(libc::RTM_NEWADDR, 0).bytes(1);
            let message = received(&bytes).next().unwrap();
            assert_eq!(Address::read(message.body).unwrap(), address);
        }
        assert_eq!(Address::read(&[2, 16]), None);
    }
}
