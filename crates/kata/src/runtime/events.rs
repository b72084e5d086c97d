// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `events`: statistics as runc prints them, one JSON object a line, and a line for each want of memory.

use std::time::Duration;

use api::task::api::{StatsRequest, StatsResponse};
use api::task::cgroups_v2::metrics::Metrics;
use base::{Context, Error, Kind, Result};
use oci::Status;
use protobuf::Message;
use serde_json::{Value, json};

use super::container::Container;
use super::{Globals, print};
use crate::link::{Link, TASK};

pub fn events(globals: &Globals, id: &str, interval: &str, once: bool) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    let interval = parse(interval)?;
    if container.status()? == Status::Stopped {
        return Err(Error::new(
            Kind::State,
            format!("container with id {id} is not running"),
        ));
    }
    let mut link = container.link()?;
    let mut killed = None;
    loop {
        let metrics = match metrics(&mut link, id) {
            Ok(metrics) => metrics,
            // It ended between two looks.
            Err(_) if !once && container.status().unwrap_or(Status::Stopped) == Status::Stopped => return Ok(()),
            Err(e) => return Err(e),
        };
        let kills = metrics.memory_events.oom_kill;
        if killed.replace(kills).is_some_and(|before| kills > before) {
            print(&format!("{}\n", json!({ "type": "oom", "id": id })))?;
        }
        print(&format!(
            "{}\n",
            json!({ "type": "stats", "id": id, "data": data(&metrics) })
        ))?;
        if once {
            return Ok(());
        }
        std::thread::sleep(interval);
        if container.status()? == Status::Stopped {
            return Ok(());
        }
    }
}

fn metrics(link: &mut Link, id: &str) -> Result<Metrics> {
    let request = StatsRequest {
        id: id.to_owned(),
        ..StatsRequest::default()
    };
    let response: StatsResponse = link.call(TASK, "Stats", &request)?;
    Metrics::parse_from_bytes(&response.stats.value).context(Kind::Bug, || "parse the statistics".into())
}

/// Nanoseconds and bytes, under the names that runc gives them.
fn data(metrics: &Metrics) -> Value {
    let (cpu, memory) = (&metrics.cpu, &metrics.memory);
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let io = |value: fn(&api::task::cgroups_v2::metrics::IOEntry) -> (u64, u64), names: (&str, &str)| {
        let entries = metrics.io.usage.iter().flat_map(|entry| {
            let (first, second) = value(entry);
            [(first, names.0), (second, names.1)]
                .map(|(value, op)| json!({ "major": entry.major, "minor": entry.minor, "op": op, "value": value }))
        });
        entries.collect::<Vec<Value>>()
    };
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(cpu.usage_usec),
                "kernel": nanoseconds(cpu.system_usec),
                "user": nanoseconds(cpu.user_usec)
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": nanoseconds(cpu.throttled_usec)
            }
        },
        "memory": {
            "cache": memory.file,
            "usage": { "limit": memory.usage_limit, "usage": memory.usage, "max": memory.max_usage, "failcnt": metrics.memory_events.max },
            "swap": { "limit": memory.swap_limit, "usage": memory.swap_usage, "failcnt": 0 },
            "kernel": { "failcnt": 0 },
            "kernelTCP": { "failcnt": 0 },
            "raw": {
                "anon": memory.anon, "file": memory.file, "kernel_stack": memory.kernel_stack, "slab": memory.slab,
                "shmem": memory.shmem, "file_mapped": memory.file_mapped, "file_dirty": memory.file_dirty,
                "inactive_anon": memory.inactive_anon, "active_anon": memory.active_anon,
                "inactive_file": memory.inactive_file, "active_file": memory.active_file,
                "pgfault": memory.pgfault, "pgmajfault": memory.pgmajfault
            }
        },
        "pids": { "current": metrics.pids.current, "limit": metrics.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": io(|entry| (entry.rbytes, entry.wbytes), ("Read", "Write")),
            "ioServicedRecursive": io(|entry| (entry.rios, entry.wios), ("Read", "Write"))
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null
    })
}

/// A duration as Go writes it (`1m30s`, `500ms`), or plain seconds.
fn parse(text: &str) -> Result<Duration> {
    let invalid = || {
        Error::new(
            Kind::Invalid,
            format!("duration {text:?}, must be greater than 0 and like 5s"),
        )
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest[..digits].parse().map_err(|_| invalid())?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[digits..digits + letters] {
            "ms" => Duration::from_millis(1),
            "" | "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(invalid()),
        };
        let part = unit.checked_mul(number).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[digits + letters..];
    }
    if total.is_zero() { Err(invalid()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse("5").unwrap(), Duration::from_secs(5));
        for bad in ["", "0s", "s", "-1s", "5x", "99999999999s", "1.5s", "5ü"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn statistics_have_runcs_names_and_units() {
        let mut metrics = Metrics::new();
        metrics.cpu.mut_or_insert_default().usage_usec = 5;
        metrics.pids.mut_or_insert_default().current = 3;
        let entry = api::task::cgroups_v2::metrics::IOEntry {
            major: 8,
            rbytes: 7,
            ..Default::default()
        };
        metrics.io.mut_or_insert_default().usage.push(entry);
        let data = data(&metrics);
        assert_eq!(data["cpu"]["usage"]["total"], 5000);
        assert_eq!(data["pids"]["current"], 3);
        let read = &data["blkio"]["ioServiceBytesRecursive"][0];
        assert_eq!(
            (&read["op"], &read["value"], &read["major"]),
            (&json!("Read"), &json!(7), &json!(8))
        );
    }
}
