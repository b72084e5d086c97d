// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `linux.resources` as writes to files of cgroup v2. The conversions from v1's units are runc's.

use std::fmt::Display;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use base::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// File in the group's directory.
    pub file: String,
    /// What is written.
    pub value: String,
    /// Without the file the machine behaves as asked anyway.
    pub optional: bool,
}

impl Setting {
    fn new(file: impl Into<String>, value: impl Display) -> Setting {
        Setting {
            file: file.into(),
            value: value.to_string(),
            optional: false,
        }
    }

    /// Writes it in `dir`. Errors: `Unsupported` when the file is missing: the kernel lacks the controller.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let what = || format!("set {} to {}", self.file, self.value);
        let path = dir.join(&self.file);
        // The kernel makes the files; trying to create one fails with varying errors.
        match fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(self.value.as_bytes()))
        {
            Err(e) if e.kind() == ErrorKind::NotFound && self.optional => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(e).context(Kind::Unsupported, what),
            other => other.attempt(what),
        }
    }
}

/// The writes for `resources`, in order; `read` gives a file's present content, for values that are written
/// together. Errors: `Invalid`.
pub fn settings(resources: &LinuxResources, read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Setting>> {
    let mut out = vec![];
    if let Some(cpu) = resources.cpu() {
        out.extend(cpu_settings(cpu, read));
    }
    if let Some(memory) = resources.memory() {
        out.extend(memory_settings(memory, read)?);
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit())
        && limit != 0
    {
        out.push(Setting::new("pids.max", number_or_max(limit)));
    }
    if let Some(io) = resources.block_io() {
        out.extend(io_settings(io, read));
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        plain_name(huge.page_size())?;
        out.push(Setting::new(
            format!("hugetlb.{}.max", huge.page_size()),
            number_or_max(huge.limit()),
        ));
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        let part = |key: &str, value: Option<u32>| value.map_or(String::new(), |value| format!(" {key}={value}"));
        let handles = part("hca_handle", rdma.hca_handles());
        out.push(Setting::new(
            "rdma.max",
            format!("{device}{handles}{}", part("hca_object", rdma.hca_objects())),
        ));
    }
    if resources.network().is_some() {
        log::warn!("linux.resources.network has no counterpart in cgroup v2");
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        plain_name(file)?;
        out.push(Setting::new(file, value));
    }
    Ok(out)
}

fn cpu_settings(cpu: &LinuxCpu, read: &dyn Fn(&str) -> Option<String>) -> Vec<Setting> {
    let mut out = vec![];
    if let Some(idle) = cpu.idle() {
        out.push(Setting::new("cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        out.push(Setting::new("cpu.weight", cpu_weight(shares)));
    }
    let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        let present = read("cpu.max").unwrap_or_default();
        let mut present = present.split_whitespace();
        let old_quota = present.next().unwrap_or("max").to_owned();
        let old_period = present.next().and_then(|text| text.parse().ok()).unwrap_or(100_000);
        let quota = quota.map_or(old_quota, number_or_max);
        out.push(Setting::new(
            "cpu.max",
            format!("{quota} {}", period.unwrap_or(old_period)),
        ));
    }
    if let Some(burst) = cpu.burst() {
        out.push(Setting::new("cpu.max.burst", burst));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            out.push(Setting::new(file, list));
        }
    }
    if cpu.realtime_runtime().is_some_and(|n| n != 0) || cpu.realtime_period().is_some_and(|n| n != 0) {
        log::warn!("real-time limits have no counterpart in cgroup v2");
    }
    out
}

fn memory_settings(memory: &LinuxMemory, read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Setting>> {
    let mut out = vec![];
    let limit = memory.limit().filter(|limit| *limit != 0);
    let present = || read("memory.max").and_then(|text| text.trim().parse().ok());
    if let Some(swap) = swap_limit(memory.swap().unwrap_or(0), limit, present)? {
        // Without the file there is no swap: nothing to limit, nothing to get.
        out.push(Setting {
            optional: true,
            ..Setting::new("memory.swap.max", number_or_max(swap))
        });
    }
    if let Some(limit) = limit {
        out.push(Setting::new("memory.max", number_or_max(limit)));
    }
    if let Some(reservation) = memory.reservation().filter(|n| *n != 0) {
        out.push(Setting::new("memory.low", number_or_max(reservation)));
    }
    let gone = [
        ("swappiness", memory.swappiness().is_some()),
        ("kernelTCP", memory.kernel_tcp().is_some_and(|n| n != 0)),
        ("disableOOMKiller", memory.disable_oom_killer() == Some(true)),
    ];
    for (name, _) in gone.iter().filter(|(_, set)| *set) {
        log::warn!("linux.resources.memory.{name} has no counterpart in cgroup v2");
    }
    Ok(out)
}

/// v1 limits memory and swap together, v2 swap alone. None leaves it as it is, negative is no limit.
fn swap_limit(both: i64, limit: Option<i64>, present: impl Fn() -> Option<i64>) -> Result<Option<i64>> {
    let invalid = |why: &str| {
        Err(Error::new(
            Kind::Invalid,
            format!("linux.resources.memory.swap {both} {why}"),
        ))
    };
    match (both, limit) {
        (0, Some(limit)) if limit < 0 => Ok(Some(-1)),
        (0, _) => Ok(None),
        (both, _) if both < 0 => Ok(Some(-1)),
        (both, limit) => match limit.or_else(present) {
            None => invalid("needs a memory limit"),
            Some(limit) if limit < 0 => invalid("needs a memory limit"),
            Some(limit) if both < limit => invalid("is lower than the memory limit"),
            Some(limit) => Ok(Some(both - limit)),
        },
    }
}

fn io_settings(io: &LinuxBlockIo, read: &dyn Fn(&str) -> Option<String>) -> Vec<Setting> {
    let mut out = vec![];
    // The BFQ scheduler has a file of its own, in v1's units.
    let bfq = read("io.bfq.weight").is_some();
    let (file, convert): (_, fn(u16) -> u64) = if bfq {
        ("io.bfq.weight", u64::from)
    } else {
        ("io.weight", io_weight)
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        out.push(Setting::new(file, convert(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{}:{} {}", device.major(), device.minor(), convert(weight));
            out.push(Setting::new(file, value));
        }
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 {
                "max".to_owned()
            } else {
                device.rate().to_string()
            };
            out.push(Setting::new(
                "io.max",
                format!("{}:{} {key}={rate}", device.major(), device.minor()),
            ));
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
    out
}

/// cpu.shares (2…262144) as cpu.weight (1…10000).
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// blkio.weight (10…1000) as io.weight (1…10000).
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1_000)) - 10) * 9_999 / 990
}

fn number_or_max(number: i64) -> String {
    if number < 0 { "max".into() } else { number.to_string() }
}

/// A file name of the group's own directory, not a path.
fn plain_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains('/') || name.starts_with("cgroup.") {
        return Err(Error::new(
            Kind::Invalid,
            format!("linux.resources names {name:?}, which is no limit"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str, present: &[(&str, &str)]) -> Vec<String> {
        let resources = serde_json::from_str(json).unwrap();
        let read = |file: &str| {
            present
                .iter()
                .find(|(name, _)| *name == file)
                .map(|(_, text)| (*text).to_owned())
        };
        settings(&resources, &read)
            .unwrap()
            .iter()
            .map(|s| format!("{}={}", s.file, s.value))
            .collect()
    }

    #[test]
    fn weights_are_converted_as_runc_does() {
        for (shares, weight) in [
            (2, 1),
            (100, 4),
            (512, 20),
            (1024, 39),
            (2048, 79),
            (262_144, 10_000),
            (1, 1),
        ] {
            assert_eq!(cpu_weight(shares), weight, "shares {shares}");
        }
        for (v1, v2) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000), (5, 1)] {
            assert_eq!(io_weight(v1), v2, "weight {v1}");
        }
    }

    #[test]
    fn each_member_becomes_its_file() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{}"#, &[]),
            (
                r#"{"cpu":{"shares":1024,"quota":50000,"period":200000}}"#,
                &["cpu.weight=39", "cpu.max=50000 200000"],
            ),
            (r#"{"cpu":{"quota":50000}}"#, &["cpu.max=50000 100000"]),
            (r#"{"cpu":{"quota":-1}}"#, &["cpu.max=max 100000"]),
            (r#"{"cpu":{"shares":0,"cpus":"0-1","mems":""}}"#, &["cpuset.cpus=0-1"]),
            (
                r#"{"cpu":{"idle":1,"burst":1000}}"#,
                &["cpu.idle=1", "cpu.max.burst=1000"],
            ),
            (r#"{"memory":{"limit":100}}"#, &["memory.max=100"]),
            (
                r#"{"memory":{"limit":100,"swap":150}}"#,
                &["memory.swap.max=50", "memory.max=100"],
            ),
            (
                r#"{"memory":{"limit":100,"swap":100}}"#,
                &["memory.swap.max=0", "memory.max=100"],
            ),
            (
                r#"{"memory":{"limit":100,"swap":-1}}"#,
                &["memory.swap.max=max", "memory.max=100"],
            ),
            (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max=max", "memory.max=max"]),
            (r#"{"memory":{"limit":0,"reservation":7}}"#, &["memory.low=7"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
            (r#"{"pids":{"limit":0}}"#, &[]),
            (r#"{"pids":{"limit":9}}"#, &["pids.max=9"]),
            (r#"{"blockIO":{"weight":1000}}"#, &["io.weight=10000"]),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#,
                &["io.max=8:0 rbps=9", "io.max=8:1 wiops=max"],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
                &["hugetlb.2MB.max=4194304"],
            ),
            (
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#,
                &["rdma.max=mlx5_1 hca_handle=3"],
            ),
            (
                r#"{"unified":{"memory.high":"5","cpu.weight":"7"}}"#,
                &["cpu.weight=7", "memory.high=5"],
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(written(json, &[]), *expected, "{json}");
        }
    }

    #[test]
    fn what_is_written_together_keeps_the_other_half() {
        assert_eq!(
            written(r#"{"cpu":{"period":5000}}"#, &[("cpu.max", "700 100000\n")]),
            ["cpu.max=700 5000"]
        );
        assert_eq!(
            written(r#"{"memory":{"swap":150}}"#, &[("memory.max", "100\n")]),
            ["memory.swap.max=50"]
        );
        assert_eq!(
            written(r#"{"blockIO":{"weight":10}}"#, &[("io.bfq.weight", "default 100")]),
            ["io.bfq.weight=10"]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for json in [
            r#"{"memory":{"swap":100}}"#,
            r#"{"memory":{"limit":100,"swap":99}}"#,
            r#"{"memory":{"limit":-1,"swap":99}}"#,
            r#"{"unified":{"../x":"1"}}"#,
            r#"{"unified":{"cgroup.procs":"1"}}"#,
            r#"{"hugepageLimits":[{"pageSize":"a/b","limit":1}]}"#,
        ] {
            let resources = serde_json::from_str(json).unwrap();
            assert_eq!(
                settings(&resources, &|_| None).unwrap_err().kind(),
                Kind::Invalid,
                "{json}"
            );
        }
    }
}
