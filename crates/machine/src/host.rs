// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What this host offers to machines and to the containers in them, as read from the kernel's files. Nothing is changed and
//! nothing takes long.

use std::fs;
use std::path::Path;
use std::thread;

use serde::Serialize;

use crate::kvm::{self, Kvm};

/// Facts about this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The processor's virtualization.
    pub kvm: Kvm,
    /// Processors that we may run on.
    pub cpus: usize,
    /// Physical memory, MiB.
    pub memory_mib: u64,
    /// Memory that could be taken now without swapping, MiB.
    pub available_mib: u64,
    /// `/dev/net/tun` exists.
    pub tun: bool,
    /// `/dev/vhost-net` exists.
    pub vhost_net: bool,
    /// `/dev/vhost-vsock` exists.
    pub vhost_vsock: bool,
    /// How processes are limited here.
    pub cgroups: Cgroups,
    /// User namespaces can be created.
    pub user_namespaces: bool,
}

/// The hierarchy of control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cgroups {
    /// Which version is mounted.
    pub mode: Mode,
    /// Controllers that are in use, of both versions.
    pub controllers: Vec<String>,
}

/// Version of the control group interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// None is mounted.
    None,
    /// One hierarchy per controller.
    V1,
    /// One hierarchy.
    V2,
    /// Both, with the controllers on version 1.
    Hybrid,
}

impl Host {
    /// Looks at this host.
    pub fn probe() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let meminfo = text("/proc/meminfo");
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        Host {
            kvm: kvm::probe(),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            memory_mib: mib(&meminfo, "MemTotal"),
            available_mib: mib(&meminfo, "MemAvailable"),
            tun: Path::new("/dev/net/tun").exists(),
            vhost_net: Path::new("/dev/vhost-net").exists(),
            vhost_vsock: Path::new("/dev/vhost-vsock").exists(),
            cgroups: cgroups(&text("/proc/mounts"), &text("/sys/fs/cgroup/cgroup.controllers")),
            user_namespaces: Path::new("/proc/self/ns/user").exists()
                && number("/proc/sys/user/max_user_namespaces").is_none_or(|most| most > 0),
        }
    }
}

/// Processors of this host that work, whoever may run on them.
pub fn processors() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    listed(online.trim()).unwrap_or(1)
}

/// How many numbers a list of the kernel's has, as `0-3,8`.
fn listed(list: &str) -> Option<u32> {
    let mut count = 0_u32;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let span = last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?;
        count = count.checked_add(span)?.checked_add(1)?;
    }
    Some(count)
}

/// Physical memory of this host, MiB; 0 if it does not say.
pub fn memory_mib() -> u64 {
    mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal")
}

/// A line of `/proc/meminfo` in MiB; 0 without it.
fn mib(meminfo: &str, key: &str) -> u64 {
    let value = |line: &str| -> Option<u64> {
        let (name, rest) = line.split_once(':')?;
        let kib: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        (name == key).then_some(kib / 1024)
    };
    meminfo.lines().find_map(value).unwrap_or(0)
}

/// From `/proc/mounts` and the list of controllers at the root of a version 2 hierarchy.
fn cgroups(mounts: &str, unified: &str) -> Cgroups {
    const CONTROLLERS: [&str; 12] = [
        "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "pids",
        "rdma",
    ];
    let (mut second, mut controllers): (bool, Vec<String>) = (false, Vec::new());
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.get(2..4) {
            Some(["cgroup2", _]) => second = true,
            Some(["cgroup", options]) => {
                let found = options.split(',').filter(|option| CONTROLLERS.contains(option));
                controllers.extend(found.map(str::to_owned));
            }
            _ => {}
        }
    }
    let mode = match (controllers.is_empty(), second) {
        (true, false) => Mode::None,
        (true, true) => Mode::V2,
        (false, false) => Mode::V1,
        (false, true) => Mode::Hybrid,
    };
    controllers.extend(unified.split_ascii_whitespace().map(str::to_owned));
    controllers.sort();
    controllers.dedup();
    Cgroups { mode, controllers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_told_by_its_mounts() {
        let hybrid = "cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n";
        let found = cgroups(hybrid, "");
        assert_eq!(
            (found.mode, found.controllers.join(" ").as_str()),
            (Mode::Hybrid, "cpu cpuacct pids")
        );
        let found = cgroups("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "cpu memory\n");
        assert_eq!(
            (found.mode, found.controllers.join(" ").as_str()),
            (Mode::V2, "cpu memory")
        );
        assert_eq!(cgroups("cgroup /c cgroup rw,memory 0 0\n", "").mode, Mode::V1);
        assert_eq!(cgroups("proc /proc proc rw 0 0\nshort\n", "").mode, Mode::None);
    }

    #[test]
    fn processors_are_counted_in_a_list() {
        for (list, count) in [("0", 1), ("0-3", 4), ("0-1,8-9,12", 5)] {
            assert_eq!(listed(list), Some(count), "{list}");
        }
        assert_eq!((listed(""), listed("3-1"), listed("x")), (None, None, None));
        assert!(processors() > 0);
    }

    #[test]
    fn memory_is_counted_in_mib() {
        let meminfo = "MemTotal:       24682496 kB\nMemFree: 1 kB\nHugePages_Total:       0\n";
        assert_eq!(mib(meminfo, "MemTotal"), 24104);
        assert_eq!(mib(meminfo, "Mem"), 0);
        assert!(Host::probe().memory_mib > 0);
    }
}
