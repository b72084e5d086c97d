// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What there is in a network namespace.

use base::{Context, Result};
use netlink::{Address, Link, Neighbour, Route, Socket};

use crate::tap;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Those that a machine can have, in the order in which they were made.
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

impl Scan {
    /// Looks.
    pub fn take(socket: &mut Socket) -> Result<Scan> {
        let what = |object: &str| format!("list {object} of the network namespace");
        let links = Link::all(socket).attempt(|| what("interfaces"))?;
        let addresses = Address::all(socket).attempt(|| what("addresses"))?;
        let links = fitting(links, &addresses);
        if links.is_empty() {
            return Ok(Scan::default());
        }
        Ok(Scan {
            links,
            addresses,
            routes: Route::all(socket).attempt(|| what("routes"))?,
            neighbours: Neighbour::all(socket).attempt(|| what("neighbours"))?,
        })
    }
}

/// Ethernet interfaces that are in use.
fn fitting(links: Vec<Link>, addresses: &[Address]) -> Vec<Link> {
    let ours = |link: &Link| {
        let number = link.name.strip_prefix(tap::PREFIX);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let loopback = libc::IFF_LOOPBACK.cast_unsigned();
    let mut links: Vec<Link> = links
        .into_iter()
        .filter(|link| {
            let addressed = addresses.iter().any(|address| address.index == link.index);
            if ours(link) || link.flags & loopback != 0 || link.master.is_some() || !(link.up() || addressed) {
                return false;
            }
            let ethernet = link.hardware == libc::ARPHRD_ETHER && link.mac.is_some();
            if !ethernet {
                log::warn!("interface {} is no Ethernet: the container will not have it", link.name);
            }
            ethernet
        })
        .collect();
    links.sort_by_key(|link| link.index);
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_carries_ethernet_and_is_in_use_goes_to_the_machine() {
        let link = |index: u32, name: &str, up: bool| Link {
            index,
            name: name.into(),
            hardware: libc::ARPHRD_ETHER,
            flags: if up { 1 } else { 0 },
            mac: Some([2, 0, 0, 0, 0, 1]),
            ..Link::default()
        };
        let mut loopback = link(1, "lo", true);
        loopback.flags |= libc::IFF_LOOPBACK.cast_unsigned();
        let mut tunnel = link(5, "wg0", true);
        tunnel.hardware = libc::ARPHRD_NONE;
        let mut port = link(6, "port", true);
        port.master = Some(7);
        let links = vec![
            loopback,
            link(9, "eth1", true),
            link(2, "eth0", true),
            link(3, "tunl0", false),
            link(4, "kata0", true),
            tunnel,
            port,
            link(8, "katastrophe", true),
        ];
        let names: Vec<String> = fitting(links, &[]).into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["eth0", "katastrophe", "eth1"]);
    }
}
