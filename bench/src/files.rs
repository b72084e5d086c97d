// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A directory of the host in a container: shared with the machine, beside the host's own file system, which is what runc's bind
//! mount gives.

use vm_tests::World;

use crate::contender::Setting;
use crate::report::Section;
use crate::steps;

fn once(world: &World, worker: &std::path::Path) -> Vec<f64> {
    let data = world.dir().join("data");
    std::fs::create_dir_all(&data).expect("make");
    let mut bundle = world.bundle("files", "exec /bench-worker /data");
    std::fs::copy(worker, bundle.rootfs().join("bench-worker")).expect("copy");
    bundle.mount("/data", "bind", data.to_str().expect("UTF-8"), &["rbind"]);
    steps::parse(&world.run_with("files", &bundle, b"").exits(0).text())
}

/// The table.
pub fn in_containers(setting: &Setting) -> Section {
    let worker = steps::worker(setting);
    let worlds: Vec<World> = setting.contenders.iter().map(|one| one.world()).collect();
    let mut runs: Vec<Vec<Vec<f64>>> = worlds.iter().map(|_| Vec::new()).collect();
    for _ in 0..setting.runs {
        for (world, runs) in worlds.iter().zip(&mut runs) {
            runs.push(once(world, &worker));
        }
    }
    worlds.into_iter().for_each(World::end);
    let mut section = Section::new("Shared files in a container");
    section.note("A bind mount of a directory of the host. The clock is the container's own.");
    let mut table = setting.table("files in a container", "ms");
    steps::fill(&mut table, &runs);
    section.tables.push(table);
    section
}
