// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bytes per second through the standard streams of a container.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use vm_tests::{Runtime, World, command};

use crate::sample::{Sample, head, row};

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

/// Prints the table.
pub fn through_cat(runs: usize) {
    let worlds = [World::new(Runtime::Ours), World::new(Runtime::Reference)];
    let mut rates = [Sample::default(), Sample::default()];
    for _ in 0..runs {
        for (at, world) in worlds.iter().enumerate() {
            rates[at].push(once(world));
        }
    }
    head("Standard streams", "MB/s", runs);
    row(&format!("{MIB} MiB in and out through `cat`"), &rates[0], &rates[1]);
    worlds.into_iter().for_each(World::end);
}
