// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Routes of the main table.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::{family, ip, u32_at};
use crate::{Attributes, Message, Socket};

/// Fixed part: family, prefix lengths of destination and source, tos, table, protocol, scope, kind, flags.
const FIXED: usize = 12;
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;
const ONLINK: u32 = 4;
/// A route that the kernel made of a packet.
const CLONED: u32 = 0x200;
/// `RTA_VIA`: a gateway of the other family.
const VIA: u16 = 18;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    /// 0 for the default route.
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Interface.
    pub index: Option<u32>,
    pub metric: u32,
    /// `RTPROT_*`: who made it.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// The gateway need not be in a network of the interface.
    pub onlink: bool,
}

impl Route {
    /// `None` also for routes of other tables, of several ways, and for entries of the kernel's cache.
    fn read(body: &[u8]) -> Option<Route> {
        let attributes = Attributes(body.get(FIXED..)?);
        let flags = u32_at(body, 8)?;
        let table = attributes.number(libc::RTA_TABLE);
        let any = match i32::from(*body.first()?) {
            libc::AF_INET => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        if table.unwrap_or(u32::from(*body.get(4)?)) != MAIN || flags & CLONED != 0 {
            return None;
        }
        if attributes.find(libc::RTA_MULTIPATH).is_some() {
            return None;
        }
        let via = attributes.find(VIA).and_then(|via| ip(via.get(2..)?));
        Some(Route {
            destination: attributes.ip(libc::RTA_DST).unwrap_or(any),
            prefix: *body.get(1)?,
            gateway: attributes.ip(libc::RTA_GATEWAY).or(via),
            source: attributes.ip(libc::RTA_PREFSRC),
            index: attributes.number(libc::RTA_OIF),
            metric: attributes.number(libc::RTA_PRIORITY).unwrap_or_default(),
            protocol: *body.get(5)?,
            scope: *body.get(6)?,
            kind: *body.get(7)?,
            onlink: flags & ONLINK != 0,
        })
    }

    /// All routes of the main table, of both families.
    pub fn all(socket: &mut Socket) -> io::Result<Vec<Route>> {
        let list = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[0; FIXED]);
        socket.list(&list, Route::read)
    }

    /// Adds it, in place of one with the same destination and metric.
    pub fn add(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE))
    }

    /// Takes it away.
    pub fn remove(&self, socket: &mut Socket) -> io::Result<()> {
        socket.tell(self.message(libc::RTM_DELROUTE, 0))
    }

    fn message(&self, kind: u16, flags: i32) -> Message {
        let mut fixed = [0; FIXED];
        fixed[0] = family(self.destination);
        fixed[1] = self.prefix;
        fixed[4] = libc::RT_TABLE_MAIN;
        fixed[5] = self.protocol;
        fixed[6] = self.scope;
        fixed[7] = self.kind;
        if self.onlink {
            fixed[8..].copy_from_slice(&ONLINK.to_ne_bytes());
        }
        let mut message = Message::new(kind, flags | libc::NLM_F_ACK, &fixed);
        if self.prefix > 0 {
            message = message.ip(libc::RTA_DST, Some(self.destination));
        }
        message = match self.gateway {
            Some(IpAddr::V6(gateway)) if self.destination.is_ipv4() => {
                let family = u16::from(family(gateway.into())).to_ne_bytes();
                message.with(VIA, &[&family[..], &gateway.octets()].concat())
            }
            gateway => message.ip(libc::RTA_GATEWAY, gateway),
        };
        message = message.ip(libc::RTA_PREFSRC, self.source);
        if let Some(index) = self.index {
            message = message.number(libc::RTA_OIF, index);
        }
        if self.metric > 0 {
            message = message.number(libc::RTA_PRIORITY, self.metric);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;

    fn route(destination: &str, prefix: u8, gateway: Option<&str>) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            prefix,
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            source: None,
            index: Some(3),
            metric: 0,
            protocol: libc::RTPROT_BOOT,
            scope: libc::RT_SCOPE_UNIVERSE,
            kind: libc::RTN_UNICAST,
            onlink: false,
        }
    }

    #[test]
    fn a_route_is_read_as_it_was_written() {
        let mut onlink = route("0.0.0.0", 0, Some("169.254.1.1"));
        onlink.onlink = true;
        onlink.metric = 100;
        onlink.source = Some("10.0.0.5".parse().unwrap());
        for route in [
            onlink,
            route("0.0.0.0", 0, Some("fe80::1")),
            route("::", 0, Some("fd00::1")),
            route("fd01::", 48, None),
        ] {
            let bytes = route.message(libc::RTM_NEWROUTE, 0).bytes(1);
            let message = received(&bytes).next().unwrap();
            assert_eq!(Route::read(message.body).unwrap(), route);
        }
    }

    #[test]
    fn other_tables_are_none_of_ours() {
        let mut bytes = route("10.1.0.0", 16, None).message(libc::RTM_NEWROUTE, 0).bytes(1);
        bytes[16 + 4] = libc::RT_TABLE_LOCAL;
        assert_eq!(Route::read(received(&bytes).next().unwrap().body), None);
    }
}
