// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `bench-worker DIRECTORY [FIO]`: does to files what applications do, and prints `step milliseconds` lines; `job MB/s`
//! lines too if the directory FIO is there. Link it statically.
//!
//! `bench-worker --guest`, as PID 1 of a machine, is a whole guest: it mounts the shared directory `bench`, works there, leaves what it has to say in the file
//! `result`, and ends the machine. It does not know who serves the files.

mod fio;
mod guest;
mod work;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let (dir, tool) = match &words[..] {
        [_, dir] => (dir, None),
        [_, dir, tool] => (dir, Some(Path::new(tool))),
        _ => {
            eprintln!("usage: bench-worker DIRECTORY [FIO] | --guest");
            return ExitCode::from(2);
        }
    };
    if dir == "--guest" {
        guest::live();
    }
    match told(Path::new(dir), tool) {
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

fn told(dir: &Path, tool: Option<&Path>) -> std::io::Result<String> {
    let mut told = work::all(dir)?;
    if let Some(tool) = tool.filter(|tool| tool.is_dir()) {
        told.push_str(&fio::all(tool, dir)?);
    }
    Ok(told)
}
