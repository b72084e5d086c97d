// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A sandbox's network, for as long as its machine lives: each interface of the namespace is tied to a device of the machine.
//!
//! The devices are made with the machine, for it takes none later: one for each interface that is there, and spare ones where
//! the engine brings interfaces after the container was created. A device's own hardware address only names it; the guest gives
//! it the address that the interface has.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use api::agent::ConfigureNetworkRequest;
use base::{Context, Error, Kind, Result};
use netlink::{Link, Mac, Socket};

use crate::Place;
use crate::plan;
use crate::scan::Scan;
use crate::tap::Tap;
use crate::traffic;

/// Hardware addresses of devices begin so: administered locally, then "kata".
const DEVICES: [u8; 5] = [2, b'k', b'a', b't', b'a'];
/// Devices of a machine that waits for its network: one interface, and one more that may come.
const SPARE: usize = 2;
/// More devices than this do not fit on the machine's bus beside the others.
const MOST: usize = 16;

/// A network device for a machine.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Names it in the guest.
    pub mac: Mac,
    /// Its packets, with offload headers.
    pub tap: Arc<OwnedFd>,
}

/// See the module. Dropping it ends all redirections.
#[derive(Debug)]
pub struct Network {
    socket: Socket,
    devices: Vec<Device>,
    /// What the guest was told last. One that has devices and was told nothing shows them all.
    told: Option<ConfigureNetworkRequest>,
}

#[derive(Debug)]
struct Device {
    mac: Mac,
    tap: Tap,
    /// The interface that it is tied to.
    link: Option<u32>,
}

/// Devices of a machine that is made before its network is known. Their taps are in the namespace in which they were made.
#[derive(Debug)]
pub struct Spare {
    socket: Socket,
    devices: Vec<Device>,
}

impl Spare {
    /// Makes them in the namespace of this thread: as many as most containers need.
    pub fn make() -> Result<Spare> {
        let mut socket = Socket::open()?;
        let devices = make(&mut socket, SPARE)?;
        Ok(Spare { socket, devices })
    }

    /// For the machine.
    pub fn nics(&self) -> Vec<Nic> {
        nics(&self.devices)
    }
}

impl Network {
    /// As [`Network::attach`], with the devices of a machine that runs already. Errors: `Unsupported` when they do not suffice.
    pub fn adopt(place: &Place, spare: Spare) -> Result<Network> {
        let Spare {
            socket: mut from,
            mut devices,
        } = spare;
        let mut socket = Socket::open()?;
        let scan = Scan::take(&mut socket)?;
        if scan.links.len() + place.expected() > devices.len() {
            let what = format!(
                "the namespace has {} network interfaces, the machine that waits {} devices",
                scan.links.len(),
                devices.len()
            );
            return Err(Error::new(Kind::Unsupported, what));
        }
        if let Place::Prepared(path) = place {
            let to = File::open(path).attempt(|| format!("open {}", path.display()))?;
            for device in &mut devices {
                device.tap.bring(&mut from, to.as_fd(), &mut socket)?;
            }
        }
        let mut network = Network {
            socket,
            devices,
            // It has been told so while it was made.
            told: Some(ConfigureNetworkRequest::default()),
        };
        network.tie(&scan)?;
        Ok(network)
    }

    /// Ties the interfaces of the namespace that this thread has entered, and claimed, as `place`.
    pub fn attach(place: &Place) -> Result<Network> {
        let mut socket = Socket::open()?;
        let scan = Scan::take(&mut socket)?;
        let count = scan.links.len() + place.expected();
        if count > MOST {
            let what = format!(
                "a machine takes {MOST} network interfaces, the namespace has {}",
                scan.links.len()
            );
            return Err(Error::new(Kind::Unsupported, what));
        }
        let devices = make(&mut socket, count)?;
        let mut network = Network {
            socket,
            told: devices.is_empty().then(ConfigureNetworkRequest::default),
            devices,
        };
        network.tie(&scan)?;
        Ok(network)
    }

    /// For the machine.
    pub fn nics(&self) -> Vec<Nic> {
        nics(&self.devices)
    }

    /// Looks again, and ties what has come. What the guest is to be told, if that has changed; call [`Network::told`] then.
    /// `resolver` is where a name server listens on the namespace's loopback interface.
    pub fn look(&mut self, resolver: Option<IpAddr>) -> Result<Option<ConfigureNetworkRequest>> {
        let scan = Scan::take(&mut self.socket)?;
        self.tie(&scan)?;
        let devices = &self.devices;
        let outlet = |link: &Link| {
            let tied = devices.iter().find(|device| device.link == Some(link.index));
            tied.map(|device| device.mac)
        };
        let mut request = plan::request(&scan, &outlet);
        request.resolver = resolver.map(plan::bytes).unwrap_or_default();
        Ok((Some(&request) != self.told.as_ref()).then_some(request))
    }

    /// The guest has been told.
    pub fn told(&mut self, request: ConfigureNetworkRequest) {
        self.told = Some(request);
    }

    fn tie(&mut self, scan: &Scan) -> Result<()> {
        let there = |index: u32| scan.links.iter().any(|link| link.index == index);
        for device in &mut self.devices {
            if device.link.is_some_and(|link| !there(link)) {
                device.link = None;
                // The interface took its half with it.
                let released = Link::set_up(&mut self.socket, device.tap.index, false)
                    .and_then(|()| traffic::release(&mut self.socket, device.tap.index));
                released.attempt(|| "release a network device".into())?;
            }
        }
        for link in &scan.links {
            if self.devices.iter().any(|device| device.link == Some(link.index)) {
                continue;
            }
            match self.devices.iter_mut().find(|device| device.link.is_none()) {
                Some(device) => device.tie(&mut self.socket, link)?,
                None => log::warn!(
                    "interface {} came after the machine was made, which has no device left for it",
                    link.name
                ),
            }
        }
        Ok(())
    }
}

fn make(socket: &mut Socket, count: usize) -> Result<Vec<Device>> {
    let [a, b, c, d, e] = DEVICES;
    let devices = (0..=u8::MAX).take(count).map(|number| {
        Ok(Device {
            mac: [a, b, c, d, e, number],
            tap: Tap::make(socket)?,
            link: None,
        })
    });
    devices.collect()
}

fn nics(devices: &[Device]) -> Vec<Nic> {
    let nics = devices.iter().map(|device| Nic {
        mac: device.mac,
        tap: Arc::clone(&device.tap.descriptor),
    });
    nics.collect()
}

impl Device {
    fn tie(&mut self, socket: &mut Socket, link: &Link) -> Result<()> {
        let what = || format!("tie interface {} to the machine", link.name);
        Link::set_mtu(socket, self.tap.index, link.mtu).attempt(what)?;
        traffic::redirect(socket, self.tap.index, link.index).attempt(what)?;
        Link::set_up(socket, self.tap.index, true).attempt(what)?;
        traffic::redirect(socket, link.index, self.tap.index).attempt(what)?;
        self.link = Some(link.index);
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for link in self.devices.iter().filter_map(|device| device.link) {
            // It may have gone since.
            if let Err(e) = traffic::release(&mut self.socket, link) {
                log::debug!("release interface {link}: {e}");
            }
        }
    }
}
