// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Standard streams: nothing lost, nothing changed, nothing stuck.

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use libtest_mimic::Trial;
use sha2::{Digest, Sha256};
use vm_tests::{World, both, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        both("stdio::out_and_err_are_apart", |w| {
            let outcome = w.sh("echo out; echo err >&2; exit 3");
            outcome.exits(3);
            assert_eq!((outcome.text().as_str(), outcome.stderr.trim()), ("out", "err"));
        }),
        both("stdio::input_ends", |w| {
            let bundle = w.bundle("c", "cat; echo end");
            assert_eq!(w.run_with("c", &bundle, b"a\nb\n").exits(0).text(), "a\nb\nend");
        }),
        both("stdio::no_input", |w| {
            assert_eq!(w.sh("wc -c").exits(0).text().trim(), "0");
        }),
        both("stdio::the_last_bytes_before_the_end_arrive", |w| {
            let outcome = w.sh("seq 1 20000; exit 9");
            outcome.exits(9);
            assert_eq!(outcome.text().lines().last(), Some("20000"));
            assert_eq!(outcome.text().lines().count(), 20000);
        }),
        both("stdio::a_reader_that_goes_away_ends_the_writer", gone_reader),
        both(
            "stdio::output_of_create_comes_through_its_own_descriptors",
            created_output,
        ),
        ours("stdio::a_gibibyte_through_cat", |w| megabytes(w, 1024)),
    ]
}

fn gone_reader(w: &World) {
    let bundle = w.bundle("c", "yes; exit 5");
    let mut command = w.runtime();
    command.args(["run", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let mut first = [0; 2];
    child
        .stdout
        .take()
        .expect("piped")
        .read_exact(&mut first)
        .expect("the first line");
    assert_eq!(&first, b"y\n");
    assert_ne!(command::end(&mut child), 0);
}

fn created_output(w: &World) {
    let bundle = w.bundle("c", "echo to the file; echo and err >&2");
    let out = w.dir().join("out");
    let file = std::fs::File::create(&out).expect("create");
    let mut command = w.runtime();
    command.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("dup"))
        .stderr(file);
    assert!(command.status().expect("create").success());
    w.oci(&["start", &w.id("c")]).exits(0);
    command::until("both lines are there", || {
        std::fs::read_to_string(&out).is_ok_and(|text| text.lines().count() == 2)
    });
    w.until_status("c", "stopped");
    w.oci(&["delete", &w.id("c")]).exits(0);
}

/// `cat` inside, counted and hashed outside: what comes back is what went in.
fn megabytes(w: &World, count: usize) {
    let bundle = w.bundle("c", "cat");
    let mut command = w.runtime();
    command.args(["run", "--bundle"]).arg(&bundle.path).arg(w.id("c"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let mut input = child.stdin.take().expect("piped");
    let writer = thread::spawn(move || {
        // A sequence that never repeats within a block, so that a lost or doubled page shows.
        let mut hash = Sha256::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = vec![0; 1 << 20];
        for _ in 0..count {
            for word in block.chunks_exact_mut(8) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&state.to_le_bytes());
            }
            hash.update(&block);
            input.write_all(&block).expect("the container reads on");
        }
        hash.finalize()
    });
    let mut output = child.stdout.take().expect("piped");
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let n = output.read(&mut block).expect("read");
        if n == 0 {
            break;
        }
        total += n;
        hash.update(&block[..n]);
    }
    assert_eq!(total, count << 20);
    assert_eq!(hash.finalize(), writer.join().expect("the writer ended"));
    assert_eq!(command::end(&mut child), 0);
}
