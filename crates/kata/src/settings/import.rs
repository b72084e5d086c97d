// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata config import`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use base::{Context, Error, Result};
use clap::Args;
use config::kata::{self, Facts};

use crate::runtime::print;

#[derive(Debug, Args)]
#[command(
    after_help = "What became of each key is told on standard error: taken, renamed, converted, meaningless here and why, unknown."
)]
pub struct Import {
    /// A configuration.toml of Kata's Go or Rust runtime
    file: PathBuf,
    /// Write the configuration to a file, which must not exist, in place of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write what became of each key to a file in place of standard error
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub fn run(wanted: &Import) -> Result<ExitCode> {
    let text = fs::read_to_string(&wanted.file).attempt(|| format!("read {}", wanted.file.display()))?;
    let facts = Facts {
        processors: machine::host::processors(),
    };
    let import = kata::Import::read(&wanted.file.to_string_lossy(), &text, facts).map_err(Error::from)?;
    let report: String = import.report.iter().map(|line| format!("{line}\n")).collect();
    match &wanted.report {
        Some(path) => base::file::replace(path, report.as_bytes())?,
        None => eprint!("{report}"),
    }
    match &wanted.output {
        Some(path) => {
            let what = || format!("write {}", path.display());
            let mut file = fs::File::create_new(path).attempt(what)?;
            std::io::Write::write_all(&mut file, import.toml().as_bytes()).attempt(what)?;
        }
        None => print(&import.toml())?,
    }
    Ok(ExitCode::SUCCESS)
}
