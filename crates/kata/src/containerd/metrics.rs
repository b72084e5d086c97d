// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A container's counters in the message that belongs to the host's control groups: engines know what to do with that one only. The
//! guest has v2 always.

use std::path::Path;

use api::task::cgroups::metrics as v1;
use api::task::cgroups_v2::metrics as v2;
use base::{Context, Kind, Result};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

/// How containerd marks the message of v1.
const V1: &str = "io.containerd.cgroups.v1.Metrics";

/// `stats`, a message of v2, as it is on hosts that have v2 alone, else as v1.
pub fn of_host(stats: Any) -> Result<Any> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok(stats);
    }
    let parsed = v2::Metrics::parse_from_bytes(&stats.value);
    let parsed = parsed.context(Kind::Bug, || "parse the statistics".into())?;
    let value = converted(&parsed).write_to_bytes();
    Ok(Any {
        type_url: V1.to_owned(),
        value: value.context(Kind::Bug, || "write the statistics".into())?,
        ..Any::default()
    })
}

/// What several messages of v2 say together of processor time, memory and processes.
pub fn total(all: &[Any]) -> Result<Any> {
    let mut total = v2::Metrics::new();
    for one in all {
        let one = v2::Metrics::parse_from_bytes(&one.value);
        let one = one.context(Kind::Bug, || "parse the statistics".into())?;
        let cpu = total.cpu.mut_or_insert_default();
        cpu.usage_usec += one.cpu.usage_usec;
        cpu.user_usec += one.cpu.user_usec;
        cpu.system_usec += one.cpu.system_usec;
        let memory = total.memory.mut_or_insert_default();
        memory.usage += one.memory.usage;
        memory.inactive_file += one.memory.inactive_file;
        total.pids.mut_or_insert_default().current += one.pids.current;
    }
    let value = total.write_to_bytes();
    Ok(Any {
        type_url: all.first().map(|one| one.type_url.clone()).unwrap_or_default(),
        value: value.context(Kind::Bug, || "write the statistics".into())?,
        ..Any::default()
    })
}

fn converted(from: &v2::Metrics) -> v1::Metrics {
    let pids = v1::PidsStat {
        current: from.pids.current,
        // No limit is the greatest number in v2.
        limit: if from.pids.limit == u64::MAX {
            0
        } else {
            from.pids.limit
        },
        ..v1::PidsStat::default()
    };
    v1::Metrics {
        pids: some(pids),
        cpu: some(cpu(&from.cpu)),
        memory: some(memory(from)),
        blkio: some(blkio(&from.io)),
        ..v1::Metrics::default()
    }
}

fn some<T>(value: T) -> MessageField<T> {
    Some(value).into()
}

fn cpu(from: &v2::CPUStat) -> v1::CPUStat {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let usage = v1::CPUUsage {
        total: nanoseconds(from.usage_usec),
        kernel: nanoseconds(from.system_usec),
        user: nanoseconds(from.user_usec),
        ..v1::CPUUsage::default()
    };
    let throttling = v1::Throttle {
        periods: from.nr_periods,
        throttled_periods: from.nr_throttled,
        throttled_time: nanoseconds(from.throttled_usec),
        ..v1::Throttle::default()
    };
    v1::CPUStat {
        usage: some(usage),
        throttling: some(throttling),
        ..v1::CPUStat::default()
    }
}

fn memory(metrics: &v2::Metrics) -> v1::MemoryStat {
    let from = &metrics.memory;
    let usage = v1::MemoryEntry {
        limit: from.usage_limit,
        usage: from.usage,
        max: from.max_usage,
        failcnt: metrics.memory_events.max,
        ..v1::MemoryEntry::default()
    };
    // v1 counts memory and swap together.
    let swap = v1::MemoryEntry {
        limit: from.usage_limit.saturating_add(from.swap_limit),
        usage: from.usage.saturating_add(from.swap_usage),
        ..v1::MemoryEntry::default()
    };
    v1::MemoryStat {
        cache: from.file,
        rss: from.anon,
        rss_huge: from.anon_thp,
        mapped_file: from.file_mapped,
        dirty: from.file_dirty,
        writeback: from.file_writeback,
        pg_fault: from.pgfault,
        pg_maj_fault: from.pgmajfault,
        inactive_anon: from.inactive_anon,
        active_anon: from.active_anon,
        inactive_file: from.inactive_file,
        active_file: from.active_file,
        unevictable: from.unevictable,
        hierarchical_memory_limit: from.usage_limit,
        total_cache: from.file,
        total_rss: from.anon,
        total_rss_huge: from.anon_thp,
        total_mapped_file: from.file_mapped,
        total_dirty: from.file_dirty,
        total_writeback: from.file_writeback,
        total_pg_fault: from.pgfault,
        total_pg_maj_fault: from.pgmajfault,
        total_inactive_anon: from.inactive_anon,
        total_active_anon: from.active_anon,
        total_inactive_file: from.inactive_file,
        total_active_file: from.active_file,
        total_unevictable: from.unevictable,
        usage: some(usage),
        swap: some(swap),
        kernel: some(v1::MemoryEntry::default()),
        kernel_tcp: some(v1::MemoryEntry::default()),
        ..v1::MemoryStat::default()
    }
}

fn blkio(from: &v2::IOStat) -> v1::BlkIOStat {
    let entries = |read: fn(&v2::IOEntry) -> u64, write: fn(&v2::IOEntry) -> u64| -> Vec<v1::BlkIOEntry> {
        let each = |entry: &v2::IOEntry| {
            [("Read", read(entry)), ("Write", write(entry))].map(|(op, value)| v1::BlkIOEntry {
                op: op.to_owned(),
                major: entry.major,
                minor: entry.minor,
                value,
                ..v1::BlkIOEntry::default()
            })
        };
        from.usage.iter().flat_map(each).collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(|entry| entry.rbytes, |entry| entry.wbytes),
        io_serviced_recursive: entries(|entry| entry.rios, |entry| entry.wios),
        ..v1::BlkIOStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_added_up() {
        let one = |time, memory, processes| {
            let mut from = v2::Metrics::new();
            from.cpu.mut_or_insert_default().usage_usec = time;
            from.memory.mut_or_insert_default().usage = memory;
            from.pids.mut_or_insert_default().current = processes;
            Any {
                type_url: "io.containerd.cgroups.v2.Metrics".into(),
                value: from.write_to_bytes().unwrap(),
                ..Any::default()
            }
        };
        let any = total(&[one(5, 100, 1), one(7, 200, 3)]).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let sum = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((sum.cpu.usage_usec, sum.memory.usage, sum.pids.current), (12, 300, 4));
        assert!(
            total(&[Any {
                value: vec![0xff],
                ..Any::default()
            }])
            .is_err()
        );
    }

    #[test]
    fn counters_keep_their_meaning_in_units_of_v1() {
        let mut from = v2::Metrics::new();
        from.cpu.mut_or_insert_default().usage_usec = 5;
        let memory = from.memory.mut_or_insert_default();
        (memory.anon, memory.usage, memory.usage_limit, memory.swap_limit) = (7, 8, 9, u64::MAX);
        from.pids.mut_or_insert_default().limit = u64::MAX;
        from.io.mut_or_insert_default().usage.push(v2::IOEntry {
            major: 8,
            wbytes: 3,
            ..v2::IOEntry::default()
        });
        let got = converted(&from);
        assert_eq!((got.cpu.usage.total, got.memory.total_rss), (5000, 7));
        assert_eq!((got.memory.usage.usage, got.memory.usage.limit), (8, 9));
        assert_eq!((got.memory.swap.limit, got.pids.limit), (u64::MAX, 0));
        let write = &got.blkio.io_service_bytes_recursive[1];
        assert_eq!((write.op.as_str(), write.major, write.value), ("Write", 8, 3));
    }
}
