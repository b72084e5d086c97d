// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The machine's network devices: found by the hardware address with which they were made. Those without use have no driver, so
//! that no container sees an interface that leads nowhere; their hardware address cannot be seen then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use netlink::{Link, Mac, Socket};

/// Writing to it makes the kernel look for devices.
const RESCAN: &str = "/sys/bus/pci/rescan";
const BUS: &str = "/sys/bus/virtio/devices";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";
/// The bus's number for network devices, as it writes it.
const NETWORK: &str = "0x0001";
/// A device that was just plugged needs this long at most.
const ARRIVAL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Finds devices that were plugged while the guest did not run, with their drivers.
pub fn look() -> Result<()> {
    fs::write(RESCAN, "1").attempt(|| format!("write {RESCAN}"))
}

/// Which devices were put aside, by the names that the virtio bus has for them.
#[derive(Debug, Default)]
pub struct Aside(BTreeMap<Mac, String>);

impl Aside {
    /// The interface of the device `mac`; waits for one that is being plugged. Errors: `NotFound`.
    pub fn fetch(&mut self, socket: &mut Socket, mac: Mac) -> Result<Link> {
        if let Some(device) = self.0.remove(&mac) {
            bind(&device)?;
        }
        let begin = Instant::now();
        loop {
            let links = Link::all(socket).attempt(|| "list interfaces".into())?;
            if let Some(link) = links.into_iter().find(|link| made_as(link) == Some(mac)) {
                return Ok(link);
            }
            // In the order of the bus: most often the first is the one.
            if let Some(device) = self.strangers()?.first() {
                bind(device)?;
            } else if begin.elapsed() > ARRIVAL {
                let what = format!("there is no network device {}", text(&mac));
                return Err(Error::new(Kind::NotFound, what));
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Network devices that no driver has had yet.
    fn strangers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(BUS).attempt(|| format!("list {BUS}"))?.flatten() {
            let path = entry.path();
            let kind = fs::read_to_string(path.join("device")).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.trim_end() == NETWORK && !path.join("driver").exists() && !self.0.values().any(|own| *own == name) {
                found.push(name);
            }
        }
        // virtio10 comes after virtio9.
        found.sort_by_key(|name| (name.len(), name.clone()));
        Ok(found)
    }

    /// Puts all devices of the machine aside but those in `used`.
    pub fn put(&mut self, socket: &mut Socket, used: &[Mac]) -> Result<()> {
        for link in Link::all(socket).attempt(|| "list interfaces".into())? {
            let Some(mac) = made_as(&link).filter(|mac| !used.contains(mac)) else {
                continue;
            };
            let Some(device) = device(&link.name) else {
                // A container's own: a bridge, a tunnel.
                continue;
            };
            let unbound = fs::write(Path::new(DRIVER).join("unbind"), &device);
            unbound.attempt(|| format!("take network device {device} from its driver"))?;
            self.0.insert(mac, device);
        }
        Ok(())
    }
}

fn bind(device: &str) -> Result<()> {
    let bound = fs::write(Path::new(DRIVER).join("bind"), device);
    bound.attempt(|| format!("give network device {device} to its driver"))
}

fn made_as(link: &Link) -> Option<Mac> {
    link.permanent.or(link.mac)
}

/// What the virtio bus calls the device of an interface; none for interfaces without.
fn device(interface: &str) -> Option<String> {
    let device = fs::canonicalize(format!("/sys/class/net/{interface}/device")).ok()?;
    let name = device.file_name()?.to_str()?.to_owned();
    name.starts_with("virtio").then_some(name)
}

/// As people write it.
pub fn text(mac: &[u8]) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
