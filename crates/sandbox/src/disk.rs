// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices of the host that a container's spec names: as nodes (`linux.devices`), or as sources of mounts.
//!
//! Engines list all devices of the host for a privileged container. It gets those that stand at another path than the host's, for
//! somebody has asked for them, and none of the others: a machine that is given the host's disks is no wall.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::agent::FileSystem;
use base::{Context, Error, Kind, Result};
use machine::DiskSpec;
use nix::sys::stat::{major, minor};
use oci::devices::{self, Access};
use oci::spec::{LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};

use crate::share::RootMount;

/// One of them, open.
#[derive(Debug)]
pub struct Disk {
    device: File,
    read_only: bool,
    places: Places,
}

/// What in the spec one device is.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    path: PathBuf,
    numbers: (u32, u32),
    devices: Vec<u32>,
    mounts: Vec<u32>,
    access: Access,
}

impl Disk {
    /// With its name in the machine: for the machine, and for the guest.
    pub fn named(self, serial: String) -> (DiskSpec, api::agent::Disk) {
        let told = api::agent::Disk {
            serial: serial.clone(),
            devices: self.places.devices,
            mounts: self.places.mounts,
            major: self.places.numbers.0,
            minor: self.places.numbers.1,
            access: self.places.access.letters(),
            ..api::agent::Disk::default()
        };
        let spec = DiskSpec {
            serial,
            parts: vec![Arc::new(OwnedFd::from(self.device))],
            read_only: self.read_only,
        };
        (spec, told)
    }
}

/// Root file systems that the machine gets as they are, for every guest's kernel knows them: others are mounted on the host and shared.
const FILE_SYSTEMS: [&str; 4] = ["ext4", "ext3", "ext2", "erofs"];

/// A container's root file system on a block device, or in a file of the host.
#[derive(Debug)]
pub struct Root {
    kind: String,
    options: Vec<String>,
    disk: Disk,
}

impl Root {
    /// What `mounts` are, if that is one file system. Errors: it cannot be opened.
    pub fn find(mounts: &[RootMount]) -> Result<Option<Root>> {
        let [mount] = mounts else { return Ok(None) };
        let path = Path::new(&mount.source);
        if !FILE_SYSTEMS.contains(&mount.kind.as_str()) || !path.is_absolute() {
            return Ok(None);
        }
        // Of the host only.
        let options = mount.options.iter().filter(|option| *option != "loop");
        let options: Vec<String> = options.cloned().collect();
        let read_only = options.iter().any(|option| option == "ro");
        let what = || format!("open the root file system {}", path.display());
        let device = OpenOptions::new().read(true).write(!read_only).open(path);
        let device = device.attempt(what)?;
        let found = device.metadata().attempt(what)?;
        if !found.file_type().is_block_device() && !found.is_file() {
            return Ok(None);
        }
        let places = Places {
            path: path.to_owned(),
            // The container's rules do not know it.
            numbers: (0, 0),
            devices: Vec::new(),
            mounts: Vec::new(),
            access: Access::default(),
        };
        Ok(Some(Root {
            kind: mount.kind.clone(),
            options,
            disk: Disk {
                device,
                read_only,
                places,
            },
        }))
    }

    /// With its name in the machine: for the machine, and for the guest, which is to mount it.
    pub fn named(self, serial: String) -> (DiskSpec, api::agent::Disk, FileSystem) {
        let mounted = FileSystem {
            serial: serial.clone(),
            type_: self.kind,
            options: self.options,
            ..FileSystem::default()
        };
        let (spec, told) = self.disk.named(serial);
        (spec, told, mounted)
    }
}

/// Whether `path` leads to a block device.
pub fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Opens all that `spec` names. Errors: with the path of the one that cannot be opened.
pub fn find(spec: &Spec) -> Result<Vec<Disk>> {
    let places = places(spec, &host_path);
    places.into_values().map(open).collect()
}

fn open(places: Places) -> Result<Disk> {
    let what = || format!("open block device {}", places.path.display());
    // A guest that was taken over cannot write where its container may not.
    let read_only = !places.access.write;
    let device = OpenOptions::new().read(true).write(!read_only).open(&places.path);
    let device = device.attempt(what)?;
    let found = device.metadata().attempt(what)?;
    if !found.file_type().is_block_device() || numbers_of(&found) != places.numbers {
        let (major, minor) = places.numbers;
        return Err(Error::new(Kind::State, what()).because(format!("it is not {major}:{minor} any more")));
    }
    Ok(Disk {
        device,
        read_only,
        places,
    })
}

fn numbers_of(found: &Metadata) -> (u32, u32) {
    let part = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (part(major(found.rdev())), part(minor(found.rdev())))
}

/// Where the host has the block device with these numbers; none if it has no such device.
fn host_path(major: u32, minor: u32) -> Option<PathBuf> {
    let event = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

fn places(spec: &Spec, host_path: &dyn Fn(u32, u32) -> Option<PathBuf>) -> BTreeMap<(u32, u32), Places> {
    let mut all: BTreeMap<(u32, u32), Places> = BTreeMap::new();
    let linux = spec.linux().as_ref();
    let rules = linux.and_then(|linux| linux.resources().as_ref());
    let rules: &[LinuxDeviceCgroup] = rules
        .and_then(|resources| resources.devices().as_deref())
        .unwrap_or_default();
    let privileged = devices::privileged(rules);
    let new = |path: PathBuf, numbers: (u32, u32)| Places {
        path,
        numbers,
        devices: Vec::new(),
        mounts: Vec::new(),
        access: devices::access(rules, numbers.0, numbers.1),
    };
    let nodes = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for (index, node) in (0..).zip(nodes) {
        let numbers = (u32::try_from(node.major()), u32::try_from(node.minor()));
        let (LinuxDeviceType::B, (Ok(major), Ok(minor))) = (node.typ(), numbers) else {
            continue;
        };
        match host_path(major, minor) {
            None => log::info!("{} is no device of the host: a node only", node.path().display()),
            Some(path) if privileged && path == *node.path() => {}
            Some(path) => {
                let numbers = (major, minor);
                let place = all.entry(numbers).or_insert_with(|| new(path, numbers));
                place.devices.push(index);
            }
        }
    }
    for (index, mount) in (0..).zip(spec.mounts().iter().flatten()) {
        if let Some((path, numbers)) = mounted(mount) {
            let place = all.entry(numbers).or_insert_with(|| new(path, numbers));
            place.mounts.push(index);
            // Who mounts a file system opens its device, in the container's name.
            if !is_bind(mount) {
                place.access.read = true;
                place.access.write |= !has(mount, "ro");
            }
        }
    }
    all
}

fn has(mount: &Mount, word: &str) -> bool {
    mount.options().iter().flatten().any(|option| option == word)
}

fn is_bind(mount: &Mount) -> bool {
    has(mount, "bind") || has(mount, "rbind") || mount.typ().as_deref() == Some("bind")
}

/// The block device that is a mount's source.
fn mounted(mount: &Mount) -> Option<(PathBuf, (u32, u32))> {
    let source = mount.source().as_ref().filter(|source| source.is_absolute())?;
    let found = fs::metadata(source).ok()?;
    let numbers = numbers_of(&found);
    found.file_type().is_block_device().then(|| (source.clone(), numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &serde_json::Value) -> Vec<Places> {
        let spec: Spec = serde_json::from_value(json.clone()).unwrap();
        places(&spec, &|major, minor| {
            (major == 7).then(|| format!("/dev/loop{minor}").into())
        })
        .into_values()
        .collect()
    }

    fn spec(rules: &serde_json::Value) -> serde_json::Value {
        let node = |path: &str, kind: &str, minor: i64| serde_json::json!({"path": path, "type": kind, "major": 7, "minor": minor});
        serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": {
                "devices": [
                    node("/dev/tty9", "c", 9), node("/dev/loop1", "b", 1), node("/dev/xvdc", "b", 2), node("/data", "b", 2),
                    {"path": "/dev/none", "type": "b", "major": 250, "minor": 0}
                ],
                "resources": {"devices": rules}
            }
        })
    }

    #[test]
    fn nodes_of_block_devices_are_found_once_for_each_device() {
        let rules = serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "minor": 1, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "minor": 2, "access": "r"}
        ]);
        let found = found(&spec(&rules));
        let seen: Vec<_> = found
            .iter()
            .map(|place| {
                (
                    place.path.to_str().unwrap(),
                    place.devices.clone(),
                    place.access.letters(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("/dev/loop1", vec![1], "rwm".to_owned()),
                ("/dev/loop2", vec![2, 3], "r".to_owned())
            ]
        );
    }

    #[test]
    fn a_privileged_container_gets_what_stands_elsewhere() {
        let found = found(&spec(&serde_json::json!([{"allow": true, "access": "rwm"}])));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].devices, [2, 3]);
    }

    #[test]
    fn what_is_no_block_device_is_not_opened() {
        let none = serde_json::json!({
            "ociVersion": "1.2.0",
            "mounts": [{"destination": "/a", "source": "/dev/null", "options": ["bind"]}, {"destination": "/b", "source": "/no"}]
        });
        assert!(found(&none).is_empty() && !is_block_device(Path::new("/dev/null")));
        let place = Places {
            path: "/dev/null".into(),
            numbers: (1, 3),
            devices: Vec::new(),
            mounts: Vec::new(),
            access: devices::access(&[], 1, 3),
        };
        assert_eq!(open(place).unwrap_err().kind(), Kind::State);
    }

    #[test]
    fn one_mount_of_ext4_is_the_machines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layer");
        fs::write(&file, "").unwrap();
        let mount = |kind: &str, source: &Path, options: &[&str]| RootMount {
            kind: kind.to_owned(),
            source: source.display().to_string(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let root = Root::find(&[mount("ext4", &file, &["loop", "ro", "noatime"])])
            .unwrap()
            .unwrap();
        let (spec, told, mounted) = root.named("kata-1".into());
        assert!(spec.read_only);
        assert_eq!(
            (told.serial.as_str(), told.access.as_str()),
            ("kata-1", ""),
            "no node of it"
        );
        assert_eq!((mounted.serial.as_str(), mounted.type_.as_str()), ("kata-1", "ext4"));
        assert_eq!(mounted.options, ["ro", "noatime"]);
        let writable = Root::find(&[mount("ext4", &file, &["loop", "rw"])]).unwrap().unwrap();
        assert!(!writable.named("kata-2".into()).0.read_only);
        for shared in [
            vec![],
            vec![mount("xfs", &file, &[])],
            vec![mount("overlay", &file, &[])],
            vec![mount("ext4", Path::new("relative"), &[])],
            vec![mount("ext4", Path::new("/dev/null"), &[])],
            vec![mount("ext4", &file, &[]), mount("ext4", &file, &[])],
        ] {
            assert!(Root::find(&shared).unwrap().is_none(), "{shared:?}");
        }
        let missing = Root::find(&[mount("ext4", &dir.path().join("none"), &[])]).unwrap_err();
        assert!(missing.chain().contains("none"), "{}", missing.chain());
    }
}
