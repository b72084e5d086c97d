// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! fio, if this host has it: what the worker needs to run it elsewhere, and what it measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::report::{Section, Table};
use crate::sample::Sample;

const PROGRAM: &str = "/usr/bin/fio";
/// Names as the worker prints them.
const JOBS: [(&str, &str); 4] = [
    ("fio-write", "write 64 MiB by 1 MiB"),
    ("fio-read", "read 64 MiB by 1 MiB"),
    ("fio-randread", "read 8 MiB by 4 KiB at random"),
    ("fio-randwrite", "write 8 MiB by 4 KiB at random"),
];

/// Copies the program, its libraries and its loader into `dir`. Makes nothing where fio is not installed.
pub fn copy(dir: &Path) {
    if !Path::new(PROGRAM).is_file() {
        return;
    }
    fs::create_dir_all(dir).expect("make");
    fs::copy(PROGRAM, dir.join("fio")).expect("copy fio");
    let output = Command::new("ldd").arg(PROGRAM).output().expect("ldd runs");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `name => path (address)`, or the loader's path alone.
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        let name = if line.contains("=>") {
            Path::new(path).file_name().expect("a file").to_owned()
        } else {
            "loader".into()
        };
        fs::copy(path, dir.join(name)).expect("copy a library");
    }
}

/// Adds a table of what the worker has `told`, by column and run, if fio was there.
pub fn add(section: &mut Section, like: &Table, told: &[Vec<String>]) {
    let values = |name: &str| -> Vec<Sample> {
        let of_run = |text: &String| -> Option<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line?.parse().ok()
        };
        let sample = |runs: &Vec<String>| {
            let mut sample = Sample::default();
            runs.iter().filter_map(of_run).for_each(|rate| sample.push(rate));
            sample
        };
        told.iter().map(sample).collect()
    };
    if values(JOBS[0].0).iter().all(|sample| sample.range().is_none()) {
        section.note("fio is not installed: nothing of it.");
        return;
    }
    section.note("fio (psync, one thread, with an fsync at the end): more is better.");
    let mut table = Table::new(&format!("fio, {}", like.title), "MB/s", like.columns.clone());
    table.ratio = like.ratio;
    for (name, what) in JOBS {
        table.row(what, values(name));
    }
    section.tables.push(table);
}
