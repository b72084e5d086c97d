// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Host memory of idle sandboxes, by process and by kind.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contender::Setting;
use crate::footprint::{self, Footprint, GUEST};
use crate::report::{Section, Table};
use crate::sample::Sample;

/// How long a guest has to come to rest.
const REST: Duration = Duration::from_secs(3);

/// The tables.
pub fn idle(setting: &Setting) -> Section {
    let count = footprint::affordable(setting.sandboxes);
    let mut section = Section::new("Memory of an idle sandbox");
    section.note(format!(
        "{count} warm sandboxes side by side, in each one process that sleeps. Proportional set size, MiB: shared pages count \
         proportionally, and the guest's memory is split between the processes that map it."
    ));
    for one in setting.ours() {
        let world = one.world();
        let names: Vec<String> = (0..count).map(|n| format!("idle{n}")).collect();
        for name in &names {
            footprint::idle(&world, name);
        }
        std::thread::sleep(REST);
        let all = footprint::of(&world);
        for name in &names {
            world.oci(&["delete", "--force", &world.id(name)]).exits(0);
        }
        world.end();
        section.tables.push(by_process(&one.name, &all, count));
        section.tables.push(by_kind(&one.name, &all, count));
    }
    section
}

fn each(total: f64, count: usize) -> Sample {
    Sample::of(total / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX)))
}

fn by_process(name: &str, all: &[Footprint], count: usize) -> Table {
    let columns = ["beyond guest memory", "guest memory"].map(str::to_owned);
    let mut table = Table::new(&format!("by process, {name}"), "MiB", columns.into());
    let mut roles: BTreeMap<&str, (Sample, Sample)> = BTreeMap::new();
    for one in all {
        let (own, guest) = roles.entry(one.role).or_default();
        own.push(one.own());
        guest.push(one.guest());
    }
    for (role, (own, guest)) in roles {
        table.row(role, vec![own, guest]);
    }
    let own = all.iter().map(Footprint::own).sum();
    let guest = all.iter().map(Footprint::guest).sum();
    table.row("all, per sandbox", vec![each(own, count), each(guest, count)]);
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
    let mut sums: Vec<(String, f64)> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut table = Table::new(&format!("by kind, {name}"), "MiB", vec!["per sandbox".into()]);
    for (what, sum) in sums {
        table.row(what, vec![each(sum, count)]);
    }
    table
}
