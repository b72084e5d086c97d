// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices that the host plugs into the running machine: found by their serial numbers, and let go again.
//!
//! They come as functions of one card in a port that has no power before we switch it on. Switching it off hands the card back.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use api::agent::Disk as Wanted;
use base::{Context, Error, Kind, Result};
use guest::Disk;

use crate::lock::lock;
use crate::modules;

/// How long the kernel may take to find a device, or its last user to leave it.
const PATIENCE: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(2);
const DRIVER: &str = "virtio_blk";
/// Held while the bus changes.
static BUS: Mutex<()> = Mutex::new(());

/// The block devices of one container. Dropping it lets them go.
#[derive(Debug, Default)]
pub struct Disks {
    serials: Vec<String>,
}

impl Disks {
    /// Finds those that are `wanted`, and says where. Errors: with the serial number of the one that is not there.
    pub fn find(wanted: &[Wanted]) -> Result<(Disks, Vec<Disk>)> {
        if wanted.is_empty() {
            return Ok((Disks::default(), Vec::new()));
        }
        let _bus = lock(&BUS);
        modules::load_later(&[DRIVER])?;
        let system = System::at("/sys");
        for port in system.ports()? {
            port.switch_on()?;
        }
        let rescan = system.root.join("bus/pci/rescan");
        fs::write(&rescan, "1").attempt(|| format!("write {}", rescan.display()))?;
        let disks = Disks {
            serials: wanted.iter().map(|disk| disk.serial.clone()).collect(),
        };
        let found: Result<Vec<Disk>> = wanted.iter().map(|disk| system.wait_for(disk)).collect();
        Ok((disks, found?))
    }

    /// Lets them go, when nothing uses them any more.
    pub fn release(&mut self) {
        let _bus = lock(&BUS);
        let system = System::at("/sys");
        let (mut cards, mut names) = (Vec::new(), Vec::new());
        for serial in self.serials.drain(..) {
            if let Some((name, card)) = system
                .find(&serial)
                .and_then(|name| Some((name.clone(), system.card(&name)?)))
            {
                names.push(name);
                cards.push(card);
            }
        }
        cards.sort();
        cards.dedup();
        for name in &names {
            if let Err(e) = settle(&Path::new("/dev").join(name)) {
                log::warn!("let block device {name} go: {}", e.chain());
            }
        }
        for card in cards {
            if let Err(e) = system.remove(&card) {
                log::warn!("{}", e.chain());
            }
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        if !self.serials.is_empty() {
            self.release();
        }
    }
}

/// Waits until no file system uses the device, and writes back what is left of it in memory.
fn settle(path: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_EXCL);
        match options.open(path) {
            Err(e) if e.kind() == ErrorKind::ResourceBusy && begin.elapsed() < PATIENCE => thread::sleep(REST),
            other => {
                let device = other.attempt(|| format!("open {}", path.display()))?;
                return device.sync_all().attempt(|| format!("write {} back", path.display()));
            }
        }
    }
}

/// The kernel's files.
#[derive(Debug)]
struct System {
    root: PathBuf,
}

impl System {
    fn at(root: impl Into<PathBuf>) -> System {
        System { root: root.into() }
    }

    /// Name of the block device with this serial number.
    fn find(&self, serial: &str) -> Option<String> {
        let entries = fs::read_dir(self.root.join("block")).ok()?.flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.find(|name| {
            let path = self.root.join("block").join(name).join("serial");
            fs::read_to_string(path).is_ok_and(|found| found.trim() == serial)
        })
    }

    fn wait_for(&self, wanted: &Wanted) -> Result<Disk> {
        let begin = Instant::now();
        let name = loop {
            if let Some(name) = self.find(&wanted.serial) {
                break name;
            }
            if begin.elapsed() > PATIENCE {
                let what = format!("block device {} is not found in the guest", wanted.serial);
                let driver = self.root.join("bus/virtio/drivers").join(DRIVER).exists();
                return Err(match driver {
                    true => Error::new(Kind::Guest, what),
                    false => Error::new(Kind::Unsupported, what).because("its kernel has no virtio_blk"),
                });
            }
            thread::sleep(REST);
        };
        let path = self.root.join("block").join(&name).join("dev");
        let text = fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
        let numbers = text.trim().split_once(':').and_then(|(major, minor)| {
            let number = |text: &str| text.parse().ok();
            Some((number(major)?, number(minor)?))
        });
        let invalid = || Error::new(Kind::Bug, format!("{} holds {text:?}", path.display()));
        let (major, minor) = numbers.ok_or_else(invalid)?;
        let index = |index: &u32| usize::try_from(*index).context(Kind::Invalid, || "count".into());
        Ok(Disk {
            path: Path::new("/dev").join(name),
            major,
            minor,
            host: (wanted.major, wanted.minor),
            access: wanted.access.clone(),
            devices: wanted.devices.iter().map(index).collect::<Result<_>>()?,
            mounts: wanted.mounts.iter().map(index).collect::<Result<_>>()?,
        })
    }

    /// The port in which a block device's card is.
    fn card(&self, name: &str) -> Option<PathBuf> {
        // …/PORT/FUNCTION/virtioN/block/NAME
        let path = self.root.join("block").join(name).canonicalize().ok()?;
        path.ancestors().nth(4).map(Path::to_owned)
    }

    /// Removes all functions of the card in a port, and switches the port off.
    fn remove(&self, port: &Path) -> Result<()> {
        let what = || format!("list {}", port.display());
        for entry in fs::read_dir(port).attempt(what)? {
            let remove = entry.attempt(what)?.path().join("remove");
            if remove.exists() {
                fs::write(&remove, "1").attempt(|| format!("write {}", remove.display()))?;
            }
        }
        match Port::at(port)? {
            Some(port) => port.switch_off(),
            None => Ok(()),
        }
    }

    /// Ports with a switch.
    fn ports(&self) -> Result<Vec<Port>> {
        let dir = self.root.join("bus/pci/devices");
        let what = || format!("list {}", dir.display());
        let mut ports = Vec::new();
        for entry in fs::read_dir(&dir).attempt(what)? {
            ports.extend(Port::at(&entry.attempt(what)?.path())?);
        }
        Ok(ports)
    }
}

/// A PCI Express port with a switch for the power of what is in it.
#[derive(Debug)]
struct Port {
    config: File,
    path: PathBuf,
    /// Where its capability begins in its configuration space.
    capability: u64,
}

// PCI Express Base Specification, chapter 7: configuration space header, capability list, slot registers.
const STATUS_LIST: u16 = 1 << 4;
const EXPRESS: u8 = 0x10;
const SLOT_CAPABILITIES: u64 = 0x14;
const SLOT_CONTROL: u64 = 0x18;
const SLOT_STATUS: u64 = 0x1a;
const HAS_POWER_SWITCH: u16 = 1 << 1;
const OCCUPIED: u16 = 1 << 6;
const LIGHT: u16 = 3 << 8;
const LIGHT_ON: u16 = 1 << 8;
const LIGHT_OFF: u16 = 3 << 8;
const POWER_OFF: u16 = 1 << 10;

impl Port {
    /// None if there is another device, or a port without a switch.
    fn at(device: &Path) -> Result<Option<Port>> {
        let class = fs::read_to_string(device.join("class")).unwrap_or_default();
        if !class.starts_with("0x0604") {
            return Ok(None);
        }
        let path = device.join("config");
        let config = File::options().read(true).write(true).open(&path);
        let mut port = Port {
            config: config.attempt(|| format!("open {}", path.display()))?,
            path,
            capability: 0,
        };
        if port.read(6)? & STATUS_LIST == 0 {
            return Ok(None);
        }
        let mut next = port.read(0x34)? & 0xfc;
        // There are no more than fit.
        for _ in 0..48 {
            if next == 0 {
                break;
            }
            let [kind, following] = port.read(u64::from(next))?.to_le_bytes();
            if kind == EXPRESS {
                port.capability = u64::from(next);
                let switch = port.read(port.capability + SLOT_CAPABILITIES)? & HAS_POWER_SWITCH != 0;
                return Ok(switch.then_some(port));
            }
            next = u16::from(following & 0xfc);
        }
        Ok(None)
    }

    fn read(&self, at: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        let read = self.config.read_exact_at(&mut bytes, at);
        read.attempt(|| format!("read {} at {at:#x}", self.path.display()))?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn set(&self, light: u16, power: u16) -> Result<()> {
        let at = self.capability + SLOT_CONTROL;
        let value = self.read(at)? & !(LIGHT | POWER_OFF) | light | power;
        let written = self.config.write_all_at(&value.to_le_bytes(), at);
        written.attempt(|| format!("write {} at {at:#x}", self.path.display()))
    }

    /// If something is in it that has no power yet.
    fn switch_on(&self) -> Result<()> {
        let occupied = self.read(self.capability + SLOT_STATUS)? & OCCUPIED != 0;
        let off = self.read(self.capability + SLOT_CONTROL)? & POWER_OFF != 0;
        if occupied && off { self.set(LIGHT_ON, 0) } else { Ok(()) }
    }

    fn switch_off(&self) -> Result<()> {
        self.set(LIGHT_OFF, POWER_OFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port's configuration space as a file: a capability that is none of ours, then that of PCI Express.
    fn port(class: &str, capabilities: u16, control: u16, status: u16) -> (tempfile::TempDir, Option<Port>) {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("class"), class).unwrap();
        let mut config = vec![0; 256];
        let mut put = |at: usize, value: u16| config[at..at + 2].copy_from_slice(&value.to_le_bytes());
        put(6, STATUS_LIST);
        put(0x34, 0x40);
        put(0x40, 0x5005);
        put(0x50, 0x0010);
        put(0x50 + 0x14, capabilities);
        put(0x50 + 0x18, control);
        put(0x50 + 0x1a, status);
        fs::write(top.path().join("config"), config).unwrap();
        let port = Port::at(top.path()).unwrap();
        (top, port)
    }

    #[test]
    fn a_card_gets_power_and_loses_it() {
        let (_top, port) = port("0x060400\n", HAS_POWER_SWITCH, POWER_OFF | LIGHT_OFF | 1, OCCUPIED);
        let port = port.unwrap();
        let control = || port.read(0x50 + SLOT_CONTROL).unwrap();
        port.switch_on().unwrap();
        assert_eq!(control(), LIGHT_ON | 1, "the other bits stay");
        port.switch_off().unwrap();
        assert_eq!(control(), POWER_OFF | LIGHT_OFF | 1);
    }

    #[test]
    fn an_empty_port_stays_off_and_others_are_left_alone() {
        let (_top, empty) = port("0x060400\n", HAS_POWER_SWITCH, POWER_OFF | LIGHT_OFF, 0);
        let empty = empty.unwrap();
        empty.switch_on().unwrap();
        assert_eq!(empty.read(0x50 + SLOT_CONTROL).unwrap(), POWER_OFF | LIGHT_OFF);
        assert!(port("0x060400\n", 0, 0, OCCUPIED).1.is_none());
        assert!(port("0x010000\n", HAS_POWER_SWITCH, 0, 0).1.is_none());
    }

    #[test]
    fn a_device_is_found_by_its_serial_number() {
        let top = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "kata-1\n"), ("vdb", "kata-2")] {
            let dir = top.path().join("block").join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("serial"), serial).unwrap();
            fs::write(dir.join("dev"), "254:16\n").unwrap();
        }
        fs::create_dir_all(top.path().join("block/loop0")).unwrap();
        let system = System::at(top.path());
        assert_eq!(system.find("kata-2").as_deref(), Some("vdb"));
        assert_eq!(system.find("kata"), None);
        let wanted = Wanted {
            serial: "kata-1".into(),
            devices: vec![3],
            ..Wanted::default()
        };
        let disk = system.wait_for(&wanted).unwrap();
        assert_eq!((disk.major, disk.minor, disk.devices), (254, 16, vec![3]));
        assert_eq!(disk.path, Path::new("/dev/vda"));
    }
}
