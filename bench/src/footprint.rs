// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The host memory of a world's processes: proportional set size, so that what is shared counts once over all of them. What is
//! the guest's is told apart from what the host's side takes for itself; and it is more than what is mapped, for the copy of a
//! frozen guest has pages that nobody has touched since.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use vm_tests::{World, process};

use crate::start;

/// The process whose guest it is; others map the guest's memory too.
const HYPERVISOR: &str = "hypervisor";
/// What a process is to its sandbox, by a word of its command line.
const ROLES: [(&str, &str); 4] = [
    ("qemu-system", HYPERVISOR),
    ("kata monitor", "monitor"),
    ("kata device", "device process"),
    ("kata shim", "shim"),
];

/// MiB by kind of mapping.
pub type Kinds = BTreeMap<&'static str, f64>;

/// The kind of the guest's memory, as far as it is mapped.
pub const GUEST: &str = "guest memory, mapped";

/// One process.
#[derive(Debug)]
pub struct Footprint {
    pub role: &'static str,
    pub kinds: Kinds,
    /// MiB that the guest's memory takes, mapped or not; of the hypervisor only.
    pub held: f64,
    /// Processor time so far, seconds.
    pub time: f64,
}

impl Footprint {
    /// MiB of the guest's memory that it has mapped.
    pub fn mapped(&self) -> f64 {
        self.kinds.get(GUEST).copied().unwrap_or(0.0)
    }

    /// MiB of everything else.
    pub fn own(&self) -> f64 {
        self.kinds.values().sum::<f64>() - self.mapped()
    }
}

/// All processes of `world` that belong to sandboxes.
pub fn of(world: &World) -> Vec<Footprint> {
    let pids = process::all().into_iter();
    pids.filter_map(|pid| {
        let role = role(world, pid)?;
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
        Some(Footprint {
            role,
            kinds: kinds(&maps),
            time: time(pid).unwrap_or(0.0),
            held: if role == HYPERVISOR { held(pid, &maps) } else { 0.0 },
        })
    })
    .collect()
}

fn role(world: &World, pid: i32) -> Option<&'static str> {
    let marker = world.dir().file_name()?.to_string_lossy().into_owned();
    if !process::carries(pid, &marker) {
        return None;
    }
    let line = process::line(pid);
    ROLES
        .iter()
        .find(|(word, _)| line.contains(word))
        .map(|(_, role)| *role)
}

/// Fields 14 and 15 of `/proc/<pid>/stat`, in ticks of 10 ms; the second, the name in parentheses, may hold anything.
fn time(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / 100.0)
}

/// Sums up a `smaps` file.
fn kinds(maps: &str) -> Kinds {
    let mut kinds = Kinds::new();
    let mut kind = "";
    for line in maps.lines() {
        if let Some(kib) = line.strip_prefix("Pss:") {
            let kib: f64 = kib.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
            *kinds.entry(kind).or_default() += kib / 1024.0;
        } else if let Some(found) = kind_of(line) {
            kind = found;
        }
    }
    kinds
}

/// MiB of the files behind the mappings of guest memory, each file once.
fn held(pid: i32, maps: &str) -> f64 {
    let ranges = maps.lines().filter(|line| kind_of(line) == Some(GUEST));
    let ranges = ranges.filter_map(|line| line.split_whitespace().next());
    let files = ranges.filter_map(|range| fs::metadata(format!("/proc/{pid}/map_files/{range}")).ok());
    let sizes: BTreeMap<u64, u64> = files.map(|file| (file.ino(), file.blocks() / 2)).collect();
    let kib = sizes.values().sum::<u64>();
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Of a mapping's first line: range, rights, offset, device, inode, name.
fn kind_of(line: &str) -> Option<&'static str> {
    let mut words = line.split_whitespace();
    words.next().filter(|range| range.contains('-'))?;
    let rights = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    Some(match name {
        _ if name.starts_with("/memfd:") || name.starts_with("/dev/shm") => GUEST,
        _ if name.starts_with('/') => "programs and libraries",
        "[heap]" => "heap",
        _ if rights.contains('x') && rights.contains('w') => "translated code",
        _ => "other anonymous memory",
    })
}

/// Starts an idle, warm sandbox.
pub fn idle(world: &World, name: &str) {
    world.create(name, &start::bundle(world, name, "sleep 100000", true));
    world.oci(&["start", &world.id(name)]).exits(0);
}

/// How many of `wanted` idle sandboxes the host holds now with some memory left, beside what else runs there.
pub fn affordable(wanted: usize) -> usize {
    /// What one may take, and what must stay free, MiB.
    const EACH: u64 = 170;
    const SPARE: u64 = 2048;
    let free = crate::report::memory("MemAvailable").unwrap_or(0).saturating_sub(SPARE);
    usize::try_from(free / EACH).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let maps = "7f00-7f10 rw-s 00000000 00:01 5 /memfd:kata (deleted)\nRss: 9 kB\nPss:                2048 kB\n\
                    7f10-7f20 rwxp 00000000 00:00 0 \nPss: 1024 kB\n7f20-7f30 r-xp 00000000 fe:00 7 /usr/bin/x\nPss: 512 kB\n\
                    7f30-7f40 rw-p 00000000 00:00 0 [heap]\nPss: 512 kB\n7f40-7f50 rw-p 00000000 00:00 0 \nPss: 1024 kB\n";
        let one = Footprint {
            role: HYPERVISOR,
            kinds: kinds(maps),
            held: 0.0,
            time: 0.0,
        };
        assert!(
            (one.mapped() - 2.0).abs() < 1e-9 && (one.own() - 3.0).abs() < 1e-9,
            "{one:?}"
        );
        assert_eq!(one.kinds.len(), 5);
        assert!(time(std::process::id().cast_signed()).is_some());
        assert!((one.kinds["translated code"] - 1.0).abs() < 1e-9);
    }
}
