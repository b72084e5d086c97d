// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Many starts at once: how long until each has printed, and all have. All of them must succeed.

use std::time::Instant;

use vm_tests::{Bundle, World};

use crate::contender::Setting;
use crate::footprint;
use crate::report::Section;
use crate::sample::Sample;
use crate::start;

const CROWDS: [usize; 3] = [1, 10, 50];
/// Large crowds are measured less often.
const FEW: usize = 3;

/// Milliseconds to the first byte of each, from the moment when all were asked for.
fn once(world: &World, bundles: &[Bundle]) -> Vec<f64> {
    let begin = Instant::now();
    let readers: Vec<_> = bundles
        .iter()
        .enumerate()
        .map(|(n, bundle)| {
            let child = start::run(world, &format!("c{n}"), bundle);
            std::thread::spawn(move || start::first_and_end(child, begin).0)
        })
        .collect();
    readers
        .into_iter()
        .map(|reader| reader.join().expect("it has printed"))
        .collect()
}

/// The table.
pub fn at_once(setting: &Setting) -> Section {
    let mut section = Section::new("Starts at once");
    section.note("Warm. From the moment when all are asked for; each prints and ends, and none may fail.");
    let mut table = setting.table("starts at once", "ms");
    for crowd in CROWDS {
        let possible = footprint::affordable(crowd);
        if possible < crowd {
            section.note(format!(
                "{crowd} were left out: the host's memory holds {possible} now."
            ));
            continue;
        }
        let runs = if crowd > 1 { setting.runs.min(FEW) } else { setting.runs };
        let mut all: Vec<Sample> = setting.contenders.iter().map(|_| Sample::default()).collect();
        let mut each = all.clone();
        for _ in 0..runs {
            for (at, one) in setting.contenders.iter().enumerate() {
                let world = one.world();
                let bundles: Vec<Bundle> = (0..crowd)
                    .map(|n| start::bundle(&world, &format!("c{n}"), "echo first", true))
                    .collect();
                let times = once(&world, &bundles);
                all[at].push(times.iter().copied().fold(0.0, f64::max));
                times.into_iter().for_each(|ms| each[at].push(ms));
                world.end();
            }
        }
        table.row(format!("{crowd}: until all have printed"), all);
        table.row(format!("{crowd}: until one has printed"), each);
    }
    section.tables.push(table);
    section
}
