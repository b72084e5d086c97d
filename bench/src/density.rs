// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What one sandbox more costs in memory.

use std::time::Duration;

use crate::contender::{Contender, Setting};
use crate::footprint::{self, Footprint};
use crate::report::{Section, memory};
use crate::sample::Sample;

/// How long guests and the kernel's counters have to come to rest.
const REST: Duration = Duration::from_secs(3);

/// With so many sandboxes, MiB.
struct Point {
    count: usize,
    all: f64,
    own: f64,
    /// Fall of the host's available memory since there was none.
    fallen: f64,
}

fn points(one: &Contender, most: usize) -> Vec<Point> {
    let world = one.world();
    let free = || {
        memory("MemAvailable")
            .and_then(|mib| u32::try_from(mib).ok())
            .map_or(f64::NAN, f64::from)
    };
    let before = free();
    let mut points = Vec::new();
    for n in 1..=most {
        footprint::idle(&world, &format!("idle{n}"));
        if n == most || [1, 2, 5, 10, 20, 50].contains(&n) {
            std::thread::sleep(REST);
            let all = footprint::of(&world);
            let own: f64 = all.iter().map(Footprint::own).sum();
            let held: f64 = all.iter().map(|one| one.held).sum();
            points.push(Point {
                count: n,
                all: own + held,
                own,
                fallen: before - free(),
            });
        }
    }
    for n in 1..=most {
        world
            .oci(&["delete", "--force", &world.id(&format!("idle{n}"))])
            .exits(0);
    }
    world.end();
    points
}

/// From one sandbox to all.
pub fn marginal(setting: &Setting) -> Section {
    let most = footprint::affordable(setting.sandboxes).max(2);
    let all: Vec<Vec<Point>> = setting.ours().map(|one| points(one, most)).collect();
    let mut section = Section::new("Density");
    section.note(
        "Idle warm sandboxes: all is the proportional set size of their processes and what their guests' memory takes, mapped or \
         not; and how far the host's available memory fell: that has the kernel's own share too, and whatever else happened on the \
         host meanwhile. Today a sandbox holds one container.",
    );
    let mut table = setting.table_of_ours("memory of many", "MiB");
    for at in 0..all.first().map_or(0, Vec::len) {
        let count = all
            .first()
            .and_then(|points| points.get(at))
            .map_or(0, |point| point.count);
        let pick = |pick: fn(&Point) -> f64| {
            all.iter()
                .filter_map(|points| points.get(at))
                .map(|point| Sample::of(pick(point)))
                .collect()
        };
        table.row(format!("{count}: all"), pick(|point| point.all));
        table.row(format!("{count}: beyond guest memory"), pick(|point| point.own));
        table.row(format!("{count}: fall of available memory"), pick(|point| point.fallen));
    }
    section.tables.push(table);
    let mut table = setting.table_of_ours("one sandbox more", "MiB");
    let slope = |pick: fn(&Point) -> f64| -> Vec<Sample> {
        let slope = |points: &Vec<Point>| {
            let (first, last) = (points.first()?, points.last()?);
            let more = f64::from(u32::try_from(last.count - first.count).ok()?);
            Some((pick(last) - pick(first)) / more)
        };
        all.iter()
            .map(|points| Sample::of(slope(points).unwrap_or(f64::NAN)))
            .collect()
    };
    table.row(format!("1 to {most}: all"), slope(|point| point.all));
    table.row(format!("1 to {most}: beyond guest memory"), slope(|point| point.own));
    table.row(
        format!("1 to {most}: fall of available memory"),
        slope(|point| point.fallen),
    );
    section.tables.push(table);
    section
}
