// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata doctor`: what this machine has and lacks for running containers in virtual machines, what will be used and why, and
//! what to install. It changes nothing.

mod checks;
mod report;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::line;
use crate::settings::Choice;

/// Shows what this machine has and lacks for running containers in virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "kata doctor",
    after_help = "Exit status: 0 if containers can run here, 1 if not."
)]
struct Options {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Options as clap::CommandFactory>::command()
}

/// `args` without the program's name and the role's word.
pub fn main(choice: &Choice, args: &[OsString]) -> ExitCode {
    let options = match line::parse::<Options>("kata doctor", args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let report = checks::all(choice);
    let mut out = std::io::stdout().lock();
    let text = if options.json {
        report.json()
    } else {
        report.table(out.is_terminal() && std::env::var_os("NO_COLOR").is_none())
    };
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || !report.runs() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
