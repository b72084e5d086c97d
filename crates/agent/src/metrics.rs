// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the guest's kernel counts. The host knows the items that it tells; here is no list of them.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::proc::{self, Row};
use ::metrics::process::{Process, own_max_fds};
use api::agent::{AgentProcess, Counters, Load, ReadMetricsResponse};

/// How often the host has asked.
static READS: AtomicU64 = AtomicU64::new(0);

/// Reads all. A file that is not there leaves its part empty.
pub fn read() -> ReadMetricsResponse {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let pairs = |file: &str| map(proc::pairs(&text(file)));
    let load = proc::load(&text("/proc/loadavg")).map(|load| Load {
        one: load.averages[0],
        five: load.averages[1],
        fifteen: load.averages[2],
        running: load.running,
        tasks: load.tasks,
        ..Load::default()
    });
    ReadMetricsResponse {
        meminfo: pairs("/proc/meminfo"),
        vmstat: pairs("/proc/vmstat"),
        cpus: counters(proc::cpus(&text("/proc/stat"))),
        load: load.into(),
        disks: counters(proc::disks(&text("/proc/diskstats"))),
        interfaces: counters(proc::interfaces(&text("/proc/net/dev"))),
        agent: Process::own().map(own).into(),
        reads: READS.fetch_add(1, Ordering::Relaxed) + 1,
        ..ReadMetricsResponse::default()
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, u64)>) -> HashMap<String, u64> {
    pairs
        .into_iter()
        .map(|(name, number)| (name.to_owned(), number))
        .collect()
}

fn counters(rows: Vec<Row>) -> Vec<Counters> {
    let counters = rows.into_iter().map(|row| Counters {
        name: row.name,
        values: row.numbers,
        ..Counters::default()
    });
    counters.collect()
}

fn own(process: Process) -> AgentProcess {
    AgentProcess {
        user: process.stat.user,
        system: process.stat.system,
        children_user: process.stat.children_user,
        children_system: process.stat.children_system,
        threads: process.stat.threads,
        virtual_bytes: process.stat.virtual_bytes,
        resident_pages: process.stat.resident_pages,
        start_time: process.start_time().unwrap_or_default(),
        open_fds: process.fds.unwrap_or_default(),
        max_fds: own_max_fds().unwrap_or_default(),
        status: process.status.into_iter().collect(),
        io: process.io.into_iter().collect(),
        ..AgentProcess::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        let (first, second) = (read(), read());
        assert!(first.meminfo["MemTotal"] > 0 && first.vmstat.contains_key("pgfault"));
        assert!(first.cpus.len() >= 2 && first.load.tasks > 0);
        assert!(
            first
                .interfaces
                .iter()
                .any(|row| row.name == "lo" && row.values.len() == 16)
        );
        assert!(first.agent.status["VmRSS"] > 0 && first.agent.open_fds > 0 && first.agent.start_time > 1e9);
        assert!(second.reads > first.reads);
    }
}
