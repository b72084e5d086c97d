// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Counters of a group, in the units of the kernel's files. The files are read through pure parsers.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;

use base::{Context, Result};

use super::Cgroup;

/// What is counted. Counters of a controller that there is not are 0, limits `u64::MAX`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// cpu.stat, microseconds.
    pub cpu_usage_usec: u64,
    /// cpu.stat, microseconds.
    pub cpu_user_usec: u64,
    /// cpu.stat, microseconds.
    pub cpu_system_usec: u64,
    /// cpu.stat, enforcement periods passed.
    pub cpu_nr_periods: u64,
    /// cpu.stat, of those with throttling.
    pub cpu_nr_throttled: u64,
    /// cpu.stat, microseconds.
    pub cpu_throttled_usec: u64,
    /// memory.current, bytes.
    pub memory_current: u64,
    /// memory.peak, bytes.
    pub memory_peak: u64,
    /// memory.max, bytes; `u64::MAX` without a limit.
    pub memory_max: u64,
    /// Every line of memory.stat.
    pub memory_stat: HashMap<String, u64>,
    /// Every line of memory.events.
    pub memory_events: HashMap<String, u64>,
    /// memory.swap.current, bytes.
    pub memory_swap_current: u64,
    /// pids.current.
    pub pids_current: u64,
    /// pids.max; `u64::MAX` without a limit.
    pub pids_max: u64,
    /// io.stat, a device each.
    pub io: Vec<IoStats>,
}

/// One device of io.stat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Requests.
    pub read_ops: u64,
    /// Requests.
    pub write_ops: u64,
}

impl Cgroup {
    /// The counters now.
    pub fn stats(&self) -> Result<Stats> {
        let cpu = parse_pairs(&self.read("cpu.stat")?);
        let cpu = |key: &str| cpu.get(key).copied().unwrap_or(0);
        Ok(Stats {
            cpu_usage_usec: cpu("usage_usec"),
            cpu_user_usec: cpu("user_usec"),
            cpu_system_usec: cpu("system_usec"),
            cpu_nr_periods: cpu("nr_periods"),
            cpu_nr_throttled: cpu("nr_throttled"),
            cpu_throttled_usec: cpu("throttled_usec"),
            memory_current: parse_number(&self.read("memory.current")?).unwrap_or(0),
            memory_peak: parse_number(&self.read("memory.peak")?).unwrap_or(0),
            memory_max: parse_number(&self.read("memory.max")?).unwrap_or(u64::MAX),
            memory_stat: parse_pairs(&self.read("memory.stat")?),
            memory_events: parse_pairs(&self.read("memory.events")?),
            memory_swap_current: parse_number(&self.read("memory.swap.current")?).unwrap_or(0),
            pids_current: parse_number(&self.read("pids.current")?).unwrap_or(0),
            pids_max: parse_number(&self.read("pids.max")?).unwrap_or(u64::MAX),
            io: parse_io(&self.read("io.stat")?),
        })
    }

    /// Empty where the file is missing: its controller is.
    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        match fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound && self.path.exists() => Ok(String::new()),
            other => other.attempt(|| format!("read {}", path.display())),
        }
    }
}

/// A file of one number, or `max`.
fn parse_number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Lines of `key number`; others are left out.
pub fn parse_pairs(text: &str) -> HashMap<String, u64> {
    let pairs = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    pairs.collect()
}

/// Lines of `major:minor key=number…`; others are left out.
pub fn parse_io(text: &str) -> Vec<IoStats> {
    let devices = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let mut device = IoStats {
            major,
            minor,
            ..IoStats::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.write_bytes = value,
                "rios" => device.read_ops = value,
                "wios" => device.write_ops = value,
                _ => {}
            }
        }
        Some(device)
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read_as_they_are_written() {
        let io = parse_io("8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\nbroken\n253:16 wios=7\n8:1\n");
        assert_eq!(io.len(), 3);
        assert_eq!((io[0].major, io[0].read_bytes, io[0].read_ops), (8, 4096, 1));
        assert_eq!((io[1].major, io[1].minor, io[1].write_ops), (253, 16, 7));
        assert_eq!(parse_number("max\n"), Some(u64::MAX));
        assert_eq!(parse_number("12\n"), Some(12));
        assert_eq!(parse_number(""), None);
        let pairs = parse_pairs("anon 5\nfile x\nslab 18446744073709551615\n");
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs["slab"], u64::MAX);
    }
}
