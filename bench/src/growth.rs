// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What verbs cost when many sandboxes are there already.

use std::process::Stdio;
use std::time::Instant;

use vm_tests::World;

use crate::contender::Setting;
use crate::footprint;
use crate::report::Section;
use crate::sample::Sample;
use crate::start;

const CROWDS: [usize; 3] = [1, 10, 100];
const VERBS: [&str; 5] = ["create", "exec", "state", "list", "delete"];

/// Milliseconds of a verb, which must succeed. Waits itself: the harness looks every 10 ms only.
fn timed(world: &World, args: &[&str]) -> f64 {
    let mut command = world.runtime();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status().expect("the runtime runs");
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    assert!(status.success(), "{args:?}: {status}");
    ms
}

/// In the order of [`VERBS`].
fn once(world: &World) -> [f64; 5] {
    let bundle = start::bundle(world, "one", "sleep 100000", true);
    let id = world.id("one");
    let path = bundle.path.to_str().expect("UTF-8");
    let create = timed(world, &["create", "--bundle", path, &id]);
    world.oci(&["start", &id]).exits(0);
    let exec = timed(world, &["exec", &id, "true"]);
    let state = timed(world, &["state", &id]);
    let list = timed(world, &["list"]);
    let delete = timed(world, &["delete", "--force", &id]);
    [create, exec, state, list, delete]
}

/// The table.
pub fn in_a_crowd(setting: &Setting) -> Section {
    let mut section = Section::new("Growth");
    section.note(
        "What verbs take beside so many idle warm sandboxes of the same root directory. Today a sandbox holds one container: \
         there is nothing to say about many in a pod.",
    );
    let mut table = setting.table("verbs in a crowd", "ms");
    let worlds: Vec<World> = setting.contenders.iter().map(|one| one.world()).collect();
    let heavy = setting.ours().count();
    let mut there = 0;
    for crowd in CROWDS {
        let crowd = crowd.min(setting.crowd);
        let possible = there + footprint::affordable((crowd - there.min(crowd)) * heavy) / heavy;
        if possible < crowd {
            section.note(format!(
                "{possible} sandboxes in place of {crowd}: the host's memory holds no more now."
            ));
        }
        let crowd = possible;
        if crowd <= there {
            continue;
        }
        for n in there..crowd {
            worlds
                .iter()
                .for_each(|world| footprint::idle(world, &format!("idle{n}")));
        }
        there = crowd;
        let mut samples: [Vec<Sample>; 5] = Default::default();
        samples
            .iter_mut()
            .for_each(|verb| verb.resize(worlds.len(), Sample::default()));
        for _ in 0..setting.runs {
            for (at, world) in worlds.iter().enumerate() {
                for (verb, ms) in samples.iter_mut().zip(once(world)) {
                    verb[at].push(ms);
                }
            }
        }
        for (verb, samples) in VERBS.iter().zip(samples) {
            table.row(format!("{verb} beside {crowd}"), samples);
        }
    }
    for world in worlds {
        for n in 0..there {
            world
                .oci(&["delete", "--force", &world.id(&format!("idle{n}"))])
                .exits(0);
        }
        world.end();
    }
    section.tables.push(table);
    section
}
