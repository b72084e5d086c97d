// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The agent's counters as containerd's message for cgroup v2. Both have the kernel's units.

use api::agent::StatsContainerResponse;
use api::task::cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat};

/// How containerd marks the message.
pub const TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// Every counter that both sides know.
pub fn metrics(stats: &StatsContainerResponse) -> Metrics {
    let memory = |key: &str| stats.memory_stat.get(key).copied().unwrap_or(0);
    let event = |key: &str| stats.memory_events.get(key).copied().unwrap_or(0);
    let io = stats.io.iter().map(|device| IOEntry {
        major: device.major,
        minor: device.minor,
        rbytes: device.read_bytes,
        wbytes: device.write_bytes,
        rios: device.read_ops,
        wios: device.write_ops,
        ..IOEntry::default()
    });
    Metrics {
        pids: Some(PidsStat {
            current: stats.pids_current,
            limit: stats.pids_max,
            ..PidsStat::default()
        })
        .into(),
        cpu: Some(CPUStat {
            usage_usec: stats.cpu_usage_usec,
            user_usec: stats.cpu_user_usec,
            system_usec: stats.cpu_system_usec,
            nr_periods: stats.cpu_nr_periods,
            nr_throttled: stats.cpu_nr_throttled,
            throttled_usec: stats.cpu_throttled_usec,
            ..CPUStat::default()
        })
        .into(),
        memory: Some(MemoryStat {
            anon: memory("anon"),
            file: memory("file"),
            kernel_stack: memory("kernel_stack"),
            slab: memory("slab"),
            sock: memory("sock"),
            shmem: memory("shmem"),
            file_mapped: memory("file_mapped"),
            file_dirty: memory("file_dirty"),
            file_writeback: memory("file_writeback"),
            anon_thp: memory("anon_thp"),
            inactive_anon: memory("inactive_anon"),
            active_anon: memory("active_anon"),
            inactive_file: memory("inactive_file"),
            active_file: memory("active_file"),
            unevictable: memory("unevictable"),
            slab_reclaimable: memory("slab_reclaimable"),
            slab_unreclaimable: memory("slab_unreclaimable"),
            pgfault: memory("pgfault"),
            pgmajfault: memory("pgmajfault"),
            pgscan: memory("pgscan"),
            pgsteal: memory("pgsteal"),
            usage: stats.memory_current,
            usage_limit: stats.memory_max,
            swap_usage: stats.memory_swap_current,
            max_usage: stats.memory_peak,
            ..MemoryStat::default()
        })
        .into(),
        io: Some(IOStat {
            usage: io.collect(),
            ..IOStat::default()
        })
        .into(),
        memory_events: Some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
            ..MemoryEvents::default()
        })
        .into(),
        ..Metrics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_values() {
        let mut stats = StatsContainerResponse::new();
        (stats.cpu_usage_usec, stats.memory_current, stats.pids_max) = (7, 8, u64::MAX);
        stats.memory_stat.insert("anon".into(), 9);
        stats.memory_events.insert("oom_kill".into(), 2);
        let got = metrics(&stats);
        assert_eq!((got.cpu.usage_usec, got.memory.usage, got.memory.anon), (7, 8, 9));
        assert_eq!((got.pids.limit, got.memory_events.oom_kill), (u64::MAX, 2));
    }
}
