// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Neighbours that somebody has written down, instead of having them asked for.

use std::io;
use std::net::IpAddr;

use crate::message::{family, u16_at, u32_at};
use crate::{Attributes, Mac, Message, Socket};

/// Fixed part: family, padding, index, state, flags, kind.
const FIXED: usize = 12;

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub index: u32,
    pub ip: IpAddr,
    pub mac: Mac,
}

impl Neighbour {
    /// `None` for those that the kernel has learnt.
    fn read(body: &[u8]) -> Option<Neighbour> {
        let attributes = Attributes(body.get(FIXED..)?);
        if u16_at(body, 8)? & libc::NUD_PERMANENT == 0 {
            return None;
        }
        Some(Neighbour {
            index: u32_at(body, 4)?,
            ip: attributes.ip(libc::NDA_DST)?,
            mac: attributes.mac(libc::NDA_LLADDR)?,
        })
    }

    /// All that are permanent.
    pub fn all(socket: &mut Socket) -> io::Result<Vec<Neighbour>> {
        let list = Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &[0; FIXED]);
        socket.list(&list, Neighbour::read)
    }

    /// Writes it down.
    pub fn add(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE))
    }

    /// Takes it away.
    pub fn remove(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_DELNEIGH, 0))
    }

    fn message(&self, kind: u16, flags: i32) -> Message {
        let mut fixed = [0; FIXED];
        fixed[0] = family(self.ip);
        fixed[4..8].copy_from_slice(&self.index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        Message::new(kind, flags | libc::NLM_F_ACK, &fixed)
            .ip(libc::NDA_DST, Some(self.ip))
            .with(libc::NDA_LLADDR, &self.mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;

    #[test]
    fn a_neighbour_is_read_as_it_was_written() {
        let neighbour = Neighbour {
            index: 2,
            ip: "169.254.1.1".parse().unwrap(),
            mac: [0xee; 6],
        };
        let mut bytes = neighbour.message(libc::RTM_NEWNEIGH, 0).bytes(1);
        let read = |bytes: &[u8]| Neighbour::read(received(bytes).next().unwrap().body);
        assert_eq!(read(&bytes).unwrap(), neighbour);
        bytes[16 + 8] = 2;
        assert_eq!(read(&bytes), None, "a learnt one");
    }
}
