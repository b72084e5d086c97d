// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The steps of the worker, a program that does to files what applications do: what they are, and how long each took.

use std::path::PathBuf;

use crate::contender::Setting;
use crate::report::Table;
use crate::sample::Sample;

/// Names as the worker prints them, in its order.
pub const STEPS: [(&str, &str); 15] = [
    ("write", "write 128 MiB, fsync"),
    ("read", "read them again"),
    ("random-read", "read 2000 times 4 KiB at random"),
    ("random-write", "write 2000 times 4 KiB at random, fsync"),
    ("create", "create 1000 files in a directory"),
    ("stat", "stat them"),
    ("list", "list them"),
    ("unlink", "unlink them"),
    ("unpack", "as tar: unpack 840 files and links"),
    ("pack", "as tar: read them"),
    ("remove-tree", "as rm -r"),
    ("commit", "as git: store 500 objects"),
    ("status", "as git: stat them in their directories"),
    ("install", "as npm: write 520 files, nested"),
    ("resolve", "as node: look for 1920 that are not there, read 480"),
];

/// The worker, beside this program or where the build put it.
pub fn worker(setting: &Setting) -> PathBuf {
    let own = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join("bench-worker")));
    let builds = setting.ours().map(|one| one.binaries().join("bench-worker"));
    let mut places = own.into_iter().chain(builds);
    places
        .find(|path| path.is_file())
        .expect("bench-worker is beside bench: `make bench` builds it")
}

/// Milliseconds in the order of [`STEPS`].
fn parse(told: &str) -> Vec<f64> {
    let one = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let ms = line.and_then(|ms| ms.parse().ok());
        ms.unwrap_or_else(|| panic!("the worker says nothing of {name}: {told}"))
    };
    STEPS.iter().map(|(name, _)| one(name)).collect()
}

/// Fills `table` with what the worker has told, by column and run.
pub fn fill(table: &mut Table, told: &[Vec<String>]) {
    let mut samples: Vec<Vec<Sample>> = STEPS.iter().map(|_| vec![Sample::default(); told.len()]).collect();
    for (column, runs) in told.iter().enumerate() {
        for text in runs {
            for (step, ms) in samples.iter_mut().zip(parse(text)) {
                step[column].push(ms);
            }
        }
    }
    for ((_, what), samples) in STEPS.iter().zip(samples) {
        table.row(*what, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_their_whole_name() {
        let told: String = STEPS
            .iter()
            .rev()
            .enumerate()
            .map(|(n, (name, _))| format!("{name} {n}.5\n"))
            .collect();
        let ms = parse(&told);
        assert!((ms[0] - 14.5).abs() < 1e-9 && (ms[14] - 0.5).abs() < 1e-9, "{ms:?}");
    }
}
