// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Host memory of idle sandboxes, by process and by kind; and the processor time that they take though they do nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::contender::Setting;
use crate::footprint::{self, Footprint, GUEST};
use crate::report::{Section, Table};
use crate::sample::Sample;

/// How long a guest has to come to rest.
const REST: Duration = Duration::from_secs(3);

/// How long it is watched for what it does.
const WATCHED: Duration = Duration::from_secs(20);

/// The tables.
pub fn idle(setting: &Setting) -> Section {
    let count = footprint::affordable(setting.sandboxes);
    let mut section = Section::new("Memory of an idle sandbox");
    section.note(format!(
        "{count} warm sandboxes side by side, in each one process that sleeps. Proportional set size, MiB: shared pages count \
         proportionally. Of the guest's memory, \"mapped\" is what processes have touched, and \"held\" what it takes of the host."
    ));
    for one in setting.ours() {
        let world = one.world();
        let names: Vec<String> = (0..count).map(|n| format!("idle{n}")).collect();
        for name in &names {
            footprint::idle(&world, name);
        }
        std::thread::sleep(REST);
        let all = footprint::of(&world);
        let begin = Instant::now();
        std::thread::sleep(WATCHED);
        let time = |all: &[Footprint]| all.iter().map(|one| one.time).sum::<f64>();
        let busy = (time(&footprint::of(&world)) - time(&all)) / begin.elapsed().as_secs_f64();
        for name in &names {
            world.oci(&["delete", "--force", &world.id(name)]).exits(0);
        }
        world.end();
        section.tables.push(by_process(&one.name, &all, count));
        section.tables.push(by_kind(&one.name, &all, count));
        let title = format!("idle processor time, {}", one.name);
        let mut table = Table::new(&title, "% of a core", vec!["per sandbox".into()]);
        table.row("all processes", vec![each(busy * 100.0, count)]);
        section.tables.push(table);
    }
    section
}

fn each(total: f64, count: usize) -> Sample {
    Sample::of(total / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX)))
}

fn by_process(name: &str, all: &[Footprint], count: usize) -> Table {
    let columns = ["beyond guest memory", "guest memory, mapped", "guest memory, held"].map(str::to_owned);
    let mut table = Table::new(&format!("by process, {name}"), "MiB", columns.into());
    let mut roles: BTreeMap<&str, [Sample; 3]> = BTreeMap::new();
    for one in all {
        let samples = roles.entry(one.role).or_default();
        for (sample, mib) in samples.iter_mut().zip([one.own(), one.mapped(), one.held]) {
            sample.push(mib);
        }
    }
    for (role, samples) in roles {
        table.row(role, samples.into());
    }
    let sums: [f64; 3] = [
        all.iter().map(Footprint::own).sum(),
        all.iter().map(Footprint::mapped).sum(),
        all.iter().map(|one| one.held).sum(),
    ];
    table.row("all, per sandbox", sums.map(|sum| each(sum, count)).into());
    table
}

fn by_kind(name: &str, all: &[Footprint], count: usize) -> Table {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for one in all {
        for (kind, mib) in &one.kinds {
            let what = if *kind == GUEST {
                GUEST.to_owned()
            } else {
                format!("{}: {kind}", one.role)
            };
            *sums.entry(what).or_default() += mib;
        }
    }
    let held: f64 = all.iter().map(|one| one.held).sum();
    let mapped: f64 = all.iter().map(Footprint::mapped).sum();
    sums.insert("guest memory, held and not mapped".to_owned(), held - mapped);
    let mut sums: Vec<(String, f64)> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut table = Table::new(&format!("by kind, {name}"), "MiB", vec!["per sandbox".into()]);
    for (what, sum) in sums {
        table.row(what, vec![each(sum, count)]);
    }
    table
}
