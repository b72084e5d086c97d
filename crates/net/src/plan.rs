// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! From what there is on the host to what the guest shall have. Pure.

use std::net::IpAddr;

use api::agent::{Address, ConfigureNetworkRequest, Interface, Neighbour, Route};
use netlink::{Link, Mac};

use crate::scan::Scan;

/// Where a link of the host comes out: the hardware address of the machine's device.
pub type Outlets<'a> = &'a dyn Fn(&Link) -> Option<Mac>;

/// The guest's network. Links without outlet are left out, with all that needs them.
pub fn request(scan: &Scan, outlets: Outlets<'_>) -> ConfigureNetworkRequest {
    let links: Vec<(&Link, Mac)> = scan
        .links
        .iter()
        .filter_map(|link| outlets(link).map(|device| (link, device)))
        .collect();
    let name = |index: u32| {
        let link = links.iter().find(|(link, _)| link.index == index);
        link.map(|(link, _)| link.name.clone())
    };
    let interfaces = links.iter().map(|(link, device)| Interface {
        device: device.to_vec(),
        name: link.name.clone(),
        mac: link.mac.unwrap_or_default().to_vec(),
        mtu: link.mtu,
        ipv6: link.ipv6,
        addresses: addresses(scan, link.index),
        ..Interface::default()
    });
    let mut routes: Vec<Route> = scan.routes.iter().filter_map(|found| route(found, &name)).collect();
    // A gateway must be in reach first.
    routes.sort_by_key(|route| !route.gateway.is_empty());
    let neighbours = scan.neighbours.iter().filter_map(|neighbour| {
        Some(Neighbour {
            interface: name(neighbour.index)?,
            ip: bytes(neighbour.ip),
            mac: neighbour.mac.to_vec(),
            ..Neighbour::default()
        })
    });
    ConfigureNetworkRequest {
        interfaces: interfaces.collect(),
        routes,
        neighbours: neighbours.collect(),
        ..ConfigureNetworkRequest::default()
    }
}

/// Those that were given; the guest learns the others as the host did.
fn addresses(scan: &Scan, index: u32) -> Vec<Address> {
    let of_link = scan.addresses.iter().filter(|address| address.index == index);
    of_link
        .filter(|address| address.permanent)
        .map(|address| Address {
            ip: bytes(address.ip),
            prefix: address.prefix.into(),
            peer: address.peer.map(bytes).unwrap_or_default(),
            broadcast: address.broadcast.map(bytes).unwrap_or_default(),
            scope: address.scope.into(),
            no_prefix_route: address.no_prefix_route,
            ..Address::default()
        })
        .collect()
}

/// `None` for what the guest's kernel makes or learns itself, and for other interfaces' routes.
fn route(found: &netlink::Route, name: &dyn Fn(u32) -> Option<String>) -> Option<Route> {
    /// `RTPROT_RA`.
    const ROUTER_ADVERTISEMENT: u8 = 9;
    if [libc::RTPROT_KERNEL, ROUTER_ADVERTISEMENT].contains(&found.protocol) {
        return None;
    }
    let interface = match found.kind {
        libc::RTN_UNICAST => name(found.index?)?,
        libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT => String::new(),
        _ => return None,
    };
    Some(Route {
        destination: bytes(found.destination),
        prefix: found.prefix.into(),
        gateway: found.gateway.map(bytes).unwrap_or_default(),
        source: found.source.map(bytes).unwrap_or_default(),
        interface,
        metric: found.metric,
        protocol: found.protocol.into(),
        scope: found.scope.into(),
        kind: found.kind.into(),
        onlink: found.onlink,
        ..Route::default()
    })
}

/// As it travels.
pub fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, 7]),
            mtu: 1400,
            ..Link::default()
        }
    }

    fn route(destination: &str, gateway: Option<&str>, index: u32) -> netlink::Route {
        netlink::Route {
            destination: ip(destination),
            prefix: 0,
            gateway: gateway.map(ip),
            source: None,
            index: Some(index),
            metric: 0,
            protocol: libc::RTPROT_BOOT,
            scope: 0,
            kind: libc::RTN_UNICAST,
            onlink: false,
        }
    }

    #[test]
    fn links_with_an_outlet_go_with_all_that_is_theirs() {
        let address = |index: u32, text: &str, permanent: bool| netlink::Address {
            index,
            ip: ip(text),
            prefix: 24,
            peer: None,
            broadcast: Some(ip("10.0.0.255")),
            scope: 0,
            no_prefix_route: false,
            permanent,
        };
        let mut made_by_the_kernel = route("10.0.0.0", None, 2);
        made_by_the_kernel.protocol = libc::RTPROT_KERNEL;
        let mut blackhole = route("10.9.0.0", None, 1);
        blackhole.kind = libc::RTN_BLACKHOLE;
        let neighbour = |index| netlink::Neighbour {
            index,
            ip: ip("169.254.1.1"),
            mac: [0xee; 6],
        };
        let scan = Scan {
            links: vec![link(2, "eth0"), link(3, "eth1")],
            addresses: vec![
                address(2, "10.0.0.5", true),
                address(2, "10.0.0.6", false),
                address(3, "10.1.0.5", true),
            ],
            routes: vec![
                route("0.0.0.0", Some("169.254.1.1"), 2),
                route("169.254.1.1", None, 2),
                route("10.1.0.0", None, 3),
                made_by_the_kernel,
                blackhole,
            ],
            neighbours: vec![neighbour(2), neighbour(3)],
        };
        let request = request(&scan, &|link| (link.index == 2).then_some([2, 0x6b, 0, 0, 0, 0]));
        let [interface] = &request.interfaces[..] else {
            panic!("{request:?}");
        };
        assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1400));
        assert_eq!(interface.device, [2, 0x6b, 0, 0, 0, 0]);
        assert_eq!(interface.mac, [2, 0, 0, 0, 0, 7]);
        assert_eq!(interface.addresses.len(), 1, "learnt addresses are learnt again");
        assert_eq!(interface.addresses[0].ip, [10, 0, 0, 5]);
        let told: Vec<(&[u8], &str)> = request
            .routes
            .iter()
            .map(|route| (&route.destination[..], route.interface.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (&[169, 254, 1, 1][..], "eth0"),
                (&[10, 9, 0, 0][..], ""),
                (&[0, 0, 0, 0][..], "eth0")
            ],
            "gateways come last"
        );
        assert_eq!(request.neighbours.len(), 1);
    }
}
