// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the guest's agent says, as numbers of a page. The guest is not believed: only items, processors, disks and interfaces of names
//! that are known get a line, each once, and the others add up under one name. So however often a guest is asked, it can say no more
//! than so many different things.

use std::collections::{BTreeMap, HashMap};

use api::agent::{AgentProcess, Counters, ReadMetricsResponse};

use crate::family::{self, Family};
use crate::items;
use crate::page::Page;
use crate::proc::Stat;
use crate::process::{self, PAGE_BYTES, TICKS};

/// Processors with a line of their own.
const MOST_CPUS: u32 = 256;
/// Interfaces, and disks, with lines of their own.
const MOST_ROWS: usize = 32;
/// As many of the guest's entries of one kind are looked at.
const MOST_ENTRIES: usize = 1024;
/// Where the others add up.
const OTHER: &str = "other";

/// Adds all that makes sense.
pub fn write(answer: &ReadMetricsResponse, page: &mut Page) {
    named(
        &family::GUEST_MEMINFO,
        items::MEMINFO.iter().copied(),
        &answer.meminfo,
        page,
    );
    let own = items::VM_STAT.iter().map(|name| (*name, *name));
    named(&family::GUEST_VM_STAT, own, &answer.vmstat, page);
    cpus(answer, page);
    if let Some(load) = answer.load.as_ref() {
        for (item, average) in [("load1", load.one), ("load5", load.five), ("load15", load.fifteen)] {
            page.set(&family::GUEST_LOAD, &[item], average.max(0.0));
        }
        page.set(&family::GUEST_TASKS, &["cur"], load.running as f64);
        page.set(&family::GUEST_TASKS, &["max"], load.tasks as f64);
    }
    numbers(&family::GUEST_DISKSTAT, &items::DISK, &sums(disk, &answer.disks), page);
    let interfaces = sums(interface, &answer.interfaces);
    numbers(&family::GUEST_NETDEV, &items::NETDEV, &interfaces, page);
    if let Some(agent) = answer.agent.as_ref() {
        page.set(&family::AGENT_SCRAPES, &[], answer.reads as f64);
        process(agent, page);
    }
}

fn named<'a>(
    family: &'static Family,
    items: impl Iterator<Item = (&'a str, &'a str)>,
    found: &HashMap<String, u64>,
    page: &mut Page,
) {
    for (name, item) in items {
        if let Some(number) = found.get(name) {
            page.set(family, &[item], *number as f64);
        }
    }
}

fn cpus(answer: &ReadMetricsResponse, page: &mut Page) {
    let mut found = BTreeMap::new();
    for row in answer.cpus.iter().take(MOST_ENTRIES) {
        let Some(number) = row.name.strip_prefix("cpu") else {
            continue;
        };
        let number = match number {
            "" => None,
            number => match number.parse::<u32>() {
                Ok(number) if number < MOST_CPUS => Some(number),
                _ => continue,
            },
        };
        found.entry(number).or_insert(&row.values);
    }
    for (number, values) in found {
        let cpu = number.map_or_else(|| "total".to_owned(), |number| number.to_string());
        for (item, value) in items::CPU.iter().zip(values) {
            page.set(&family::GUEST_CPU_TIME, &[&cpu, item], *value as f64);
        }
    }
}

/// By name; those that have no line of their own together. Numbers of one name add up.
fn sums(known: fn(&str) -> bool, rows: &[Counters]) -> BTreeMap<&str, Vec<u64>> {
    let mut sums: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for row in rows.iter().take(MOST_ENTRIES) {
        let (name, values) = (row.name.as_str(), &row.values);
        let own = known(name) && (sums.contains_key(name) || sums.len() < MOST_ROWS);
        let sum = sums.entry(if own { name } else { OTHER }).or_default();
        let values = &values[..values.len().min(items::DISK.len())];
        sum.resize(sum.len().max(values.len()), 0);
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
    }
    sums
}

fn numbers(family: &'static Family, items: &[&str], rows: &BTreeMap<&str, Vec<u64>>, page: &mut Page) {
    for (name, values) in rows {
        for (item, value) in items.iter().zip(values) {
            page.set(family, &[name, item], *value as f64);
        }
    }
}

/// Names that engines give to interfaces.
fn interface(name: &str) -> bool {
    name == "lo"
        || ["eth", "net"]
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(small_number))
}

/// Disks that the machine was given.
fn disk(name: &str) -> bool {
    let letters = name.strip_prefix("vd").unwrap_or_default();
    matches!(letters.len(), 1 | 2) && letters.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn small_number(digits: &str) -> bool {
    matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn process(agent: &AgentProcess, page: &mut Page) {
    let stat = Stat {
        user: agent.user,
        system: agent.system,
        children_user: agent.children_user,
        children_system: agent.children_system,
        ..Stat::default()
    };
    process::stat(&family::AGENT_PROC_STAT, &stat, page);
    named(
        &family::AGENT_PROC_STATUS,
        items::STATUS.iter().copied(),
        &agent.status,
        page,
    );
    // Here, Kata has the kernel's own names.
    let io = items::IO.iter().map(|(name, _)| (*name, *name));
    named(&family::AGENT_IO_STAT, io, &agent.io, page);
    let seconds = agent.user.saturating_add(agent.system) as f64 / TICKS;
    page.set(&family::AGENT_CPU, &[], seconds);
    page.set(&family::AGENT_THREADS, &[], agent.threads as f64);
    page.set(&family::AGENT_OPEN_FDS, &[], agent.open_fds as f64);
    page.set(&family::AGENT_MAX_FDS, &[], agent.max_fds as f64);
    let resident = agent.resident_pages.saturating_mul(PAGE_BYTES);
    page.set(&family::AGENT_RESIDENT, &[], resident as f64);
    page.set(&family::AGENT_VIRTUAL, &[], agent.virtual_bytes as f64);
    page.set(&family::AGENT_START_TIME, &[], agent.start_time);
}

#[cfg(test)]
mod tests {
    use api::agent::Load;

    use super::*;
    use crate::page::Format;
    use crate::text;

    fn row(name: &str, values: &[u64]) -> Counters {
        Counters {
            name: name.into(),
            values: values.into(),
            ..Counters::default()
        }
    }

    fn page(answer: &ReadMetricsResponse) -> String {
        let mut page = Page::new(Format::Text);
        write(answer, &mut page);
        page.render()
    }

    #[test]
    fn an_honest_guest_is_told_by_katas_names() {
        let mut answer = ReadMetricsResponse::new();
        answer.meminfo.insert("MemTotal".into(), 2048);
        answer.vmstat.insert("pgfault".into(), 3);
        answer.cpus = vec![row("cpu", &[1, 2]), row("cpu0", &[1, 2])];
        answer.interfaces = vec![row("eth0", &[7; 16]), row("lo", &[1; 16])];
        answer.disks = vec![row("vda", &[9; 17])];
        answer.load = Some(Load {
            one: 0.5,
            tasks: 70,
            ..Load::default()
        })
        .into();
        answer.agent = Some(AgentProcess {
            user: 50,
            system: 100,
            resident_pages: 2,
            ..AgentProcess::default()
        })
        .into();
        let text = page(&answer);
        for line in [
            "kata_guest_meminfo{item=\"mem_total\"} 2048",
            "kata_guest_vm_stat{item=\"pgfault\"} 3",
            "kata_guest_cpu_time{cpu=\"total\",item=\"nice\"} 2",
            "kata_guest_cpu_time{cpu=\"0\",item=\"user\"} 1",
            "kata_guest_netdev_stat{interface=\"eth0\",item=\"sent_packets\"} 7",
            "kata_guest_diskstat{disk=\"vda\",item=\"time_flushing\"} 9",
            "kata_guest_load{item=\"load1\"} 0.5",
            "kata_guest_tasks{item=\"max\"} 70",
            "kata_agent_process_cpu_seconds_total 1.5",
            "kata_agent_process_resident_memory_bytes 8192",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
        assert!(!text.contains("other"), "{text}");
    }

    #[test]
    fn a_guest_that_lies_says_nothing_new() {
        let mut answer = ReadMetricsResponse::new();
        for number in 0..5000 {
            answer.meminfo.insert(format!("Made{number}"), 1);
            answer
                .interfaces
                .push(row(&format!("evil{number}\"}} 1\n"), &[1; 1000]));
            answer.interfaces.push(row(&format!("eth{number}"), &[1]));
            answer.cpus.push(row(&format!("cpu{number}"), &[1; 100]));
            answer.cpus.push(row("cpu1", &[5]));
        }
        answer.disks = vec![
            row("dm-0", &[1]),
            row("loop0", &[2]),
            row("vda", &[u64::MAX]),
            row("vda", &[1]),
        ];
        answer.load = Some(Load {
            one: f64::NAN,
            five: f64::INFINITY,
            fifteen: -3.0,
            ..Load::default()
        })
        .into();
        let text = page(&answer);
        let samples = text::parse(&text).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for sample in &samples {
            assert!(
                seen.insert((sample.family.name, sample.labels.clone())),
                "twice: {sample:?}"
            );
        }
        assert!(samples.len() < 256 * 10 + 33 * 17 + 100, "{}", samples.len());
        assert!(
            !text.contains("evil") && !text.contains("Made") && !text.contains("NaN"),
            "{text}"
        );
        assert!(text.contains("kata_guest_diskstat{disk=\"other\",item=\"reads\"} 3\n"));
        assert!(text.contains("kata_guest_diskstat{disk=\"vda\",item=\"reads\"} 18446744073709552000\n"));
        assert!(text.contains("kata_guest_load{item=\"load15\"} 0\n"));
    }
}
