// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `bench-worker DIRECTORY`: does to files what applications do, and prints `step milliseconds` lines. Link it statically.
//!
//! `bench-worker --guest`, as PID 1 of a machine, is a whole guest: it mounts the shared directory `bench`, works there, leaves what it has to say in the file
//! `result`, and ends the machine. It does not know who serves the files.

mod guest;
mod work;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let [_, dir] = &words[..] else {
        eprintln!("usage: bench-worker DIRECTORY | --guest");
        return ExitCode::from(2);
    };
    if dir == "--guest" {
        guest::live();
    }
    match work::all(Path::new(dir)) {
        Ok(told) => {
            print!("{told}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("bench-worker: {e}");
            ExitCode::FAILURE
        }
    }
}
