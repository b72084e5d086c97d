// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The guest's network, as the host says it shall be. What a container with the right to has changed itself is left alone.

use std::fs;
use std::net::IpAddr;
use std::sync::Mutex;

use api::agent::{self, ConfigureNetworkRequest, Interface};
use base::{Context, Error, Kind, Result};
use netlink::{Address, Link, Mac, Neighbour, Route, Socket};

use crate::lock::lock;
use crate::nic::{self, Aside};

/// See the module.
#[derive(Debug, Default)]
pub struct Network(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    aside: Aside,
    /// What we have set so far.
    set: Settings,
}

/// All that interfaces carry.
#[derive(Debug, Default)]
struct Settings {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
}

impl Network {
    /// Nothing but the loopback interface, also where the kernel has given devices to a driver by itself.
    pub fn begin() -> Result<Network> {
        let network = Network::default();
        lock(&network.0).aside.put(&mut Socket::open()?, &[])?;
        Ok(network)
    }

    /// Makes it what `request` says. Errors: everything that failed, in one line; the rest is done.
    pub fn configure(&self, request: &ConfigureNetworkRequest) -> Result<()> {
        // Held to the end: one call after the other.
        let mut state = lock(&self.0);
        let mut socket = Socket::open()?;
        let mut failures = Vec::new();
        let links = state.interfaces(&mut socket, request, &mut failures)?;
        match Settings::read(request, &links) {
            Ok(wanted) => {
                state.set.replace(&mut socket, &wanted, &mut failures);
                state.set = wanted;
            }
            Err(e) => failures.push(e),
        }
        let Some(first) = failures.first() else {
            return Ok(());
        };
        let kind = first.kind();
        let all: Vec<String> = failures.iter().map(Error::chain).collect();
        Err(Error::new(kind, "configure the network").because(all.join("; ")))
    }
}

impl State {
    /// Devices, names, hardware addresses. Returns the interfaces that are there now.
    fn interfaces(
        &mut self,
        socket: &mut Socket,
        request: &ConfigureNetworkRequest,
        failures: &mut Vec<Error>,
    ) -> Result<Vec<Link>> {
        let mut found = Vec::new();
        for interface in &request.interfaces {
            let fetched = mac(&interface.device).and_then(|device| self.aside.fetch(socket, device));
            match fetched {
                Ok(link) => found.push((interface, link)),
                Err(e) => failures.push(Error::new(e.kind(), format!("interface {}", interface.name)).because(e)),
            }
        }
        let used: Vec<Mac> = request
            .interfaces
            .iter()
            .filter_map(|interface| mac(&interface.device).ok())
            .collect();
        self.aside.put(socket, &used)?;
        // Two steps: one may have the name that another is to get.
        for (interface, link) in found.iter_mut().filter(|(interface, link)| interface.name != link.name) {
            let name = format!("kata{}", link.index);
            rename(socket, link, &name).attempt(|| format!("interface {}", interface.name))?;
        }
        let mut links = Vec::new();
        for (interface, mut link) in found {
            match set_up(socket, interface, &mut link).attempt(|| format!("interface {}", interface.name)) {
                Ok(()) => links.push(link),
                Err(e) => failures.push(e),
            }
        }
        Ok(links)
    }
}

fn rename(socket: &mut Socket, link: &mut Link, name: &str) -> Result<()> {
    if link.up() {
        Link::set_up(socket, link.index, false).attempt(|| "switch it off".into())?;
    }
    Link::rename(socket, link.index, name).attempt(|| format!("name it {name}"))?;
    name.clone_into(&mut link.name);
    Ok(())
}

fn set_up(socket: &mut Socket, interface: &Interface, link: &mut Link) -> Result<()> {
    if interface.name != link.name {
        rename(socket, link, &interface.name)?;
    }
    let wanted = mac(&interface.mac)?;
    if link.mac != Some(wanted) {
        Link::set_mac(socket, link.index, wanted)
            .attempt(|| format!("give it hardware address {}", nic::text(&wanted)))?;
    }
    if interface.mtu != link.mtu {
        Link::set_mtu(socket, link.index, interface.mtu).attempt(|| format!("set its MTU to {}", interface.mtu))?;
    }
    // Whoever has given out its addresses knows that they are unique. A kernel without IPv6 has neither file.
    for (setting, value) in [
        ("accept_dad", "0"),
        ("disable_ipv6", if interface.ipv6 { "0" } else { "1" }),
    ] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/{setting}", link.name), value);
    }
    Link::set_up(socket, link.index, true).attempt(|| "switch it on".into())
}

impl Settings {
    fn read(request: &ConfigureNetworkRequest, links: &[Link]) -> Result<Settings> {
        let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
        let mut settings = Settings::default();
        for interface in &request.interfaces {
            // One that is not there has been complained about.
            let Some(index) = index(&interface.name) else { continue };
            for address in &interface.addresses {
                settings.addresses.push(read_address(address, index)?);
            }
        }
        for route in &request.routes {
            match (route.interface.as_str(), index(&route.interface)) {
                ("", _) => settings.routes.push(read_route(route, None)?),
                (_, Some(index)) => settings.routes.push(read_route(route, Some(index))?),
                (_, None) => {}
            }
        }
        for neighbour in &request.neighbours {
            let Some(index) = index(&neighbour.interface) else {
                continue;
            };
            settings.neighbours.push(Neighbour {
                index,
                ip: ip(&neighbour.ip)?,
                mac: mac(&neighbour.mac)?,
            });
        }
        Ok(settings)
    }

    /// Sets `wanted`; what was set before and is not wanted any more goes.
    fn replace(&self, socket: &mut Socket, wanted: &Settings, failures: &mut Vec<Error>) {
        let gone = |what: &str, done: std::io::Result<()>| {
            if let Err(e) = done {
                // Most often its interface went first.
                log::debug!("remove {what}: {e}");
            }
        };
        for route in self.routes.iter().filter(|old| !wanted.routes.contains(old)) {
            gone("a route", route.remove(socket));
        }
        for neighbour in self.neighbours.iter().filter(|old| !wanted.neighbours.contains(old)) {
            gone("a neighbour", neighbour.remove(socket));
        }
        for address in self.addresses.iter().filter(|old| !wanted.addresses.contains(old)) {
            gone("an address", address.remove(socket));
        }
        let mut set = |done: Result<()>| failures.extend(done.err());
        for address in &wanted.addresses {
            let done = address.add(socket);
            set(done.attempt(|| format!("address {}/{}", address.ip, address.prefix)));
        }
        for route in &wanted.routes {
            let done = route.add(socket);
            set(done.attempt(|| {
                let via = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
                format!("route to {}/{}{via}", route.destination, route.prefix)
            }));
        }
        for neighbour in &wanted.neighbours {
            set(neighbour.add(socket).attempt(|| format!("neighbour {}", neighbour.ip)));
        }
    }
}

fn read_address(address: &agent::Address, index: u32) -> Result<Address> {
    Ok(Address {
        index,
        ip: ip(&address.ip)?,
        prefix: small(address.prefix)?,
        peer: optional(&address.peer)?,
        broadcast: optional(&address.broadcast)?,
        scope: small(address.scope)?,
        no_prefix_route: address.no_prefix_route,
        permanent: true,
    })
}

fn read_route(route: &agent::Route, index: Option<u32>) -> Result<Route> {
    Ok(Route {
        destination: ip(&route.destination)?,
        prefix: small(route.prefix)?,
        gateway: optional(&route.gateway)?,
        source: optional(&route.source)?,
        index,
        metric: route.metric,
        protocol: small(route.protocol)?,
        scope: small(route.scope)?,
        kind: small(route.kind)?,
        onlink: route.onlink,
    })
}

fn ip(bytes: &[u8]) -> Result<IpAddr> {
    let wrong = || Error::new(Kind::Invalid, format!("an IP address of {} bytes", bytes.len()));
    optional(bytes)?.ok_or_else(wrong)
}

/// Where the request wants a name server to be.
pub fn resolver(request: &ConfigureNetworkRequest) -> Result<Option<IpAddr>> {
    optional(&request.resolver)
}

fn optional(bytes: &[u8]) -> Result<Option<IpAddr>> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Some(v4.into()));
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(Some(v6.into())),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(Error::new(
            Kind::Invalid,
            format!("an IP address of {} bytes", bytes.len()),
        )),
    }
}

fn mac(bytes: &[u8]) -> Result<Mac> {
    Mac::try_from(bytes).context(Kind::Invalid, || format!("a hardware address of {} bytes", bytes.len()))
}

fn small(number: u32) -> Result<u8> {
    u8::try_from(number).context(Kind::Invalid, || format!("{number} where a byte is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ConfigureNetworkRequest {
        let address = agent::Address {
            ip: vec![10, 0, 0, 2],
            prefix: 24,
            ..agent::Address::default()
        };
        let route = |interface: &str| agent::Route {
            destination: vec![0; 16],
            interface: interface.into(),
            kind: 1,
            ..agent::Route::default()
        };
        ConfigureNetworkRequest {
            interfaces: vec![Interface {
                name: "eth0".into(),
                addresses: vec![address],
                ..Interface::default()
            }],
            routes: vec![route("eth0"), route("eth7"), route("")],
            ..ConfigureNetworkRequest::default()
        }
    }

    #[test]
    fn settings_belong_to_the_interfaces_that_are_there() {
        let link = Link {
            index: 5,
            name: "eth0".into(),
            ..Link::default()
        };
        let settings = Settings::read(&request(), &[link]).unwrap();
        assert_eq!(settings.addresses[0].ip.to_string(), "10.0.0.2");
        let indexes: Vec<Option<u32>> = settings.routes.iter().map(|route| route.index).collect();
        assert_eq!(indexes, [Some(5), None]);
        assert!(Settings::read(&request(), &[]).unwrap().addresses.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(optional(&[]).unwrap(), None);
        assert_eq!(ip(&[]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(ip(&[1, 2, 3]).unwrap_err().chain(), "an IP address of 3 bytes");
        assert!(small(256).is_err() && mac(&[0; 8]).is_err());
    }
}
