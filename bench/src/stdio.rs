// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bytes per second through the standard streams of a container.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use vm_tests::{World, command};

use crate::contender::Setting;
use crate::report::Section;
use crate::sample::Sample;

const MIB: usize = 128;

/// MB/s of `run` with `cat` inside, from its first byte out to the last.
fn once(world: &World) -> f64 {
    let bundle = world.bundle("stdio", "cat");
    let mut command = world.runtime();
    command
        .args(["run", "--bundle"])
        .arg(&bundle.path)
        .arg(world.id("stdio"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the runtime runs");
    let mut input = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        let block = vec![b'x'; 1 << 20];
        for _ in 0..MIB {
            input.write_all(&block).expect("the container reads on");
        }
    });
    let mut output = child.stdout.take().expect("piped");
    let mut block = vec![0; 1 << 16];
    output.read_exact(&mut block[..1]).expect("the first byte");
    let begin = Instant::now();
    let mut total = 1;
    loop {
        match output.read(&mut block).expect("read") {
            0 => break,
            n => total += n,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    writer.join().expect("the writer ended");
    assert_eq!(command::end(&mut child), 0);
    assert_eq!(total, MIB << 20);
    f64::from(u32::try_from(MIB).expect("small")) * 1.048_576 / seconds
}

/// The table.
pub fn through_cat(setting: &Setting) -> Section {
    let worlds: Vec<World> = setting.contenders.iter().map(|one| one.world()).collect();
    let mut rates: Vec<Sample> = worlds.iter().map(|_| Sample::default()).collect();
    for _ in 0..setting.runs {
        for (world, rate) in worlds.iter().zip(&mut rates) {
            rate.push(once(world));
        }
    }
    worlds.into_iter().for_each(World::end);
    let mut section = Section::new("Standard streams");
    section.note("Into a container and out of it, from the first byte out to the last. More is better.");
    let mut table = setting.table("streams", "MB/s");
    table.row(format!("{MIB} MiB through `cat`"), rates);
    section.tables.push(table);
    section
}
