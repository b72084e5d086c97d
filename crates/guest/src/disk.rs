// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices of the machine that a spec names as the host's: nodes, sources of mounts, rules and limits become the guest's.

use std::path::{Path, PathBuf};

use base::{Error, Kind, Result};
use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, Spec,
};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where the guest has it.
    pub path: PathBuf,
    /// Its number in the guest.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
    /// Its numbers on the host, as the spec has them.
    pub host: (u32, u32),
    /// What the spec's rules let the container do with it, of `rwm`.
    pub access: String,
    /// Indices into the spec's devices.
    pub devices: Vec<usize>,
    /// Indices into the spec's mounts.
    pub mounts: Vec<usize>,
}

impl Disk {
    fn numbers(&self) -> (i64, i64) {
        (self.major.into(), self.minor.into())
    }

    fn is(&self, major: i64, minor: i64) -> bool {
        (i64::from(self.host.0), i64::from(self.host.1)) == (major, minor)
    }
}

/// The spec with the guest's numbers and paths of `disks`. Errors: `Invalid` for one that stands for nothing in the spec.
pub fn localize(mut spec: Spec, disks: &[Disk]) -> Result<Spec> {
    if disks.is_empty() {
        return Ok(spec);
    }
    let missing = |what: &str, index: usize, path: &Path| {
        let what = format!("{} is for {what}[{index}], which there is not", path.display());
        Error::new(Kind::Invalid, what)
    };
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for disk in disks {
        for index in &disk.mounts {
            let mount = mounts.get_mut(*index);
            let mount = mount.ok_or_else(|| missing("mounts", *index, &disk.path))?;
            mount.set_source(Some(disk.path.clone()));
        }
    }
    spec.set_mounts(Some(mounts));
    let Some(linux) = spec.linux_mut() else {
        return Ok(spec);
    };
    let mut devices = linux.devices().clone().unwrap_or_default();
    for disk in disks {
        let (major, minor) = disk.numbers();
        for index in &disk.devices {
            let device = devices.get_mut(*index);
            let device = device.ok_or_else(|| missing("linux.devices", *index, &disk.path))?;
            device.set_major(major).set_minor(minor);
        }
    }
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    localize_limits(&mut resources, disks);
    // Without rules of the spec there are still those of these devices: none would be of use.
    if resources.devices().is_none() {
        allow(&mut resources, disks);
    }
    linux.set_resources(Some(resources));
    Ok(spec)
}

/// Limits and rules with the guest's numbers.
pub fn localize_limits(resources: &mut LinuxResources, disks: &[Disk]) {
    if disks.is_empty() {
        return;
    }
    if resources.devices().is_some() {
        allow(resources, disks);
    }
    let guest = |major: i64, minor: i64| disks.iter().find(|disk| disk.is(major, minor)).map(Disk::numbers);
    let limits = |limits: &Option<Vec<LinuxThrottleDevice>>| {
        let moved = limits.iter().flatten().map(|limit| {
            let (major, minor) = guest(limit.major(), limit.minor())?;
            let moved = LinuxThrottleDeviceBuilder::default().major(major).minor(minor);
            moved.rate(limit.rate()).build().ok()
        });
        let all = limits.iter().flatten();
        let all: Vec<_> = all.zip(moved).map(|(limit, moved)| moved.unwrap_or(*limit)).collect();
        limits.is_some().then_some(all)
    };
    if let Some(mut io) = resources.block_io().clone() {
        let (read, write) = (
            limits(io.throttle_read_bps_device()),
            limits(io.throttle_write_bps_device()),
        );
        let (reads, writes) = (
            limits(io.throttle_read_iops_device()),
            limits(io.throttle_write_iops_device()),
        );
        io.set_throttle_read_bps_device(read)
            .set_throttle_write_bps_device(write)
            .set_throttle_read_iops_device(reads)
            .set_throttle_write_iops_device(writes);
        resources.set_block_io(Some(io));
    }
}

/// Adds what the rules about the host's numbers mean for the guest's. Those about the host's own do not count: in the guest that is
/// another device, or none.
fn allow(resources: &mut LinuxResources, disks: &[Disk]) {
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.retain(|rule| {
        let exact = rule.typ() == Some(LinuxDeviceType::B);
        let numbers = rule.major().zip(rule.minor());
        !(exact && numbers.is_some_and(|(major, minor)| disks.iter().any(|disk| disk.is(major, minor))))
    });
    for disk in disks {
        let (major, minor) = disk.numbers();
        let rule = |allow: bool, access: &str| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(allow)
                .set_typ(Some(LinuxDeviceType::B))
                .set_major(Some(major))
                .set_minor(Some(minor))
                .set_access(Some(access.to_owned()));
            rule
        };
        rules.push(rule(false, "rwm"));
        if !disk.access.is_empty() {
            rules.push(rule(true, &disk.access));
        }
    }
    resources.set_devices(Some(rules));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk {
            path: "/dev/vda".into(),
            major: 254,
            minor: 0,
            host: (7, 3),
            access: "r".into(),
            devices: vec![0],
            mounts: vec![1],
        }
    }

    fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "mounts": [{"destination": "/proc"}, {"destination": "/m", "source": "/dev/loop3", "type": "ext4"}],
            "linux": {
                "devices": [{"path": "/dev/xvdc", "type": "b", "major": 7, "minor": 3}],
                "resources": {
                    "devices": [
                        {"allow": false, "access": "rwm"},
                        {"allow": true, "type": "b", "major": 7, "minor": 3, "access": "r"}
                    ],
                    "blockIO": {"throttleReadBpsDevice": [{"major": 7, "minor": 3, "rate": 9}, {"major": 8, "minor": 0, "rate": 1}]}
                }
            }
        }))
        .unwrap()
    }

    #[test]
    fn numbers_and_paths_become_the_guests() {
        let local = localize(spec(), &[disk()]).unwrap();
        let linux = local.linux().as_ref().unwrap();
        let node = &linux.devices().as_ref().unwrap()[0];
        assert_eq!((node.major(), node.minor()), (254, 0));
        assert_eq!(node.path(), Path::new("/dev/xvdc"));
        let source = local.mounts().as_ref().unwrap()[1].source().clone();
        assert_eq!(source.as_deref(), Some(Path::new("/dev/vda")));
        let resources = linux.resources().as_ref().unwrap();
        let rules: Vec<String> = resources.devices().iter().flatten().map(ToString::to_string).collect();
        assert_eq!(rules.len(), 3, "{rules:?}");
        assert_eq!(rules[2], "b 254:0 r");
        let io = resources.block_io().as_ref().unwrap();
        let limits = io.throttle_read_bps_device().as_ref().unwrap();
        assert_eq!((limits[0].major(), limits[1].major()), (254, 8));
    }

    #[test]
    fn what_the_rules_deny_stays_denied() {
        let mut denied = disk();
        denied.access = String::new();
        let local = localize(spec(), &[denied]).unwrap();
        let resources = local.linux().as_ref().unwrap().resources().clone().unwrap();
        assert!(resources.devices().iter().flatten().all(|rule| !rule.allow()));
        let mut absent = disk();
        absent.devices = vec![7];
        assert_eq!(localize(spec(), &[absent]).unwrap_err().kind(), Kind::Invalid);
    }
}
