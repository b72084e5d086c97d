// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A directory of the host in a container: shared with the machine, beside the host's own file system, which is what runc's bind
//! mount gives.

use std::io::Read;

use vm_tests::World;

use crate::contender::Setting;
use crate::report::Section;
use crate::{fio, start, steps};

fn once(world: &World, worker: &std::path::Path) -> String {
    let data = world.dir().join("data");
    std::fs::create_dir_all(&data).expect("make");
    let mut bundle = world.bundle("files", "exec /bench-worker /data /fio");
    std::fs::copy(worker, bundle.rootfs().join("bench-worker")).expect("copy");
    bundle.mount("/data", "bind", data.to_str().expect("UTF-8"), &["rbind"]);
    fio::copy(&bundle.rootfs().join("fio"));
    // However long it takes: the harness's deadline is for tests.
    let mut child = start::run(world, "files", &bundle);
    let mut told = String::new();
    let mut output = child.stdout.take().expect("piped");
    output.read_to_string(&mut told).expect("the worker prints text");
    let status = child.wait().expect("wait for a child of ours");
    assert!(status.success(), "{status}: {told}");
    told
}

/// The table.
pub fn in_containers(setting: &Setting) -> Section {
    let worker = steps::worker(setting);
    let worlds: Vec<World> = setting.contenders.iter().map(|one| one.world()).collect();
    let mut told: Vec<Vec<String>> = worlds.iter().map(|_| Vec::new()).collect();
    for _ in 0..setting.runs {
        for (world, runs) in worlds.iter().zip(&mut told) {
            runs.push(once(world, &worker));
        }
    }
    worlds.into_iter().for_each(World::end);
    let mut section = Section::new("Shared files in a container");
    section.note("A bind mount of a directory of the host. The clock is the container's own.");
    let mut table = setting.table("files in a container", "ms");
    steps::fill(&mut table, &told);
    fio::add(&mut section, &table, &told);
    section.tables.insert(0, table);
    section
}
