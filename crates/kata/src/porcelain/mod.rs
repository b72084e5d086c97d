// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a person types: `kata run` and its companions. Each makes a bundle, or finds one, and goes the way of `kata-runtime`.
//!
//! Exit codes: the process's own for a foreground `run` and `exec`; 125 for our failures, 126 and 127 for a program that cannot be
//! executed or is not there; 128 and the signal's number when we are interrupted before it runs. An error is one line.

mod arguments;
mod end;
mod environment;
mod exec;
mod images;
mod inspect;
mod interrupt;
mod logs;
mod metrics;
mod name;
mod network;
mod progress;
mod ps;
mod publish;
mod record;
mod records;
mod rm;
mod root;
mod run;
mod spec;
mod status;
mod stop;
mod timeline;
mod user;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base::{Error, Kind, Result};
use clap::Parser;
use config::Loaded;
use nix::sys::stat::{Mode, umask};

use crate::runtime::{Globals, print};
use crate::shim::{self, Log};
use arguments::{Line, Verb};
pub use end::ended;
use records::Records;

/// Ours, as docker has it.
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NO_PROGRAM: u8 = 127;

/// An error with the exit code that it means.
#[derive(Debug)]
struct Failure {
    code: u8,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { code: FAILED, error }
    }
}

impl Failure {
    /// Of starting a process: the guest's words tell the program's fault from ours.
    fn of_start(error: Error) -> Failure {
        let chain = error.chain();
        let code = match error.kind() {
            _ if !chain.contains("unable to start container process: exec") => FAILED,
            Kind::NotFound => NO_PROGRAM,
            _ => NOT_EXECUTABLE,
        };
        Failure { code, error }
    }

    fn report(&self) {
        log::debug!("{:?}", self.error);
        eprintln!("kata: {}", self.error.chain().replace('\n', " "));
    }
}

/// Where everything is.
#[derive(Debug)]
struct Here {
    records: Records,
    /// The runtime's root directory, absolute.
    root: PathBuf,
    settings: Arc<Loaded>,
}

impl Here {
    fn open(settings: Arc<Loaded>) -> Result<Here> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::new(Kind::Denied, "must be run as root"));
        }
        let config = &settings.config;
        Ok(Here {
            records: Records::at(config.run.directory.clone())?,
            root: config.runtime.root.clone(),
            settings,
        })
    }

    /// For the runtime's verbs; what they start logs to `log`.
    fn globals(&self, log: Option<PathBuf>) -> Globals {
        Globals {
            root: self.root.clone(),
            log: Log {
                file: log,
                json: self.settings.config.log.format == "json",
                debug: self.settings.config.log.debug,
            },
            systemd_cgroup: false,
            user_network: None,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Line as clap::CommandFactory>::command()
}

/// `args` without the program's name.
pub fn main(args: &[OsString]) -> ExitCode {
    shim::sys::keep_descriptors_to_ourselves();
    let words = std::iter::once(OsString::from("kata")).chain(args.iter().cloned());
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(e) if e.use_stderr() => {
            eprintln!("kata: {}", arguments::complaint(&e));
            return ExitCode::from(FAILED);
        }
        Err(e) => {
            // Help or version; nothing is left to do when that cannot be printed.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = Log::default()
        .start("kata")
        .map_err(Failure::from)
        .and_then(|()| act(line));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code)
        }
    }
}

fn act(line: Line) -> Result<u8, Failure> {
    let Some(verb) = line.verb else {
        let help = command().render_long_help();
        print(&help.to_string())?;
        return Ok(0);
    };
    // Directories and files of containers are for all of their users, whatever ours hides from others.
    umask(Mode::from_bits_truncate(0o022));
    let settings = match verb {
        Verb::Run(_) | Verb::Pull { .. } => line.choice.load()?,
        _ => line.choice.load_or_default()?,
    };
    let here = Here::open(settings)?;
    match verb {
        Verb::Run(args) => run::run(&here, &args),
        Verb::Exec(args) => exec::exec(&here, &args),
        Verb::Ps(args) => ps::ps(&here, &args),
        Verb::Logs {
            follow,
            tail,
            container,
        } => logs::logs(&here, &container, tail.as_deref(), follow),
        Verb::Stop { time, containers } => each(&containers, |name| stop::stop(&here, name, time)),
        Verb::Kill { signal, containers } => each(&containers, |name| stop::kill(&here, name, &signal)),
        Verb::Rm { force, containers } => each(&containers, |name| rm::rm(&here, name, force)),
        Verb::Inspect { containers } => inspect::inspect(&here, &containers),
        Verb::Metrics { container } => metrics::metrics(&here, &container),
        Verb::Images { json, quiet } => images::images(&here, json, quiet),
        Verb::Pull { quiet, image } => images::pull(&here, &image, quiet),
        Verb::Rmi { force, images } => each(&images, |name| images::rmi(&here, name, force)),
    }
}

/// Does the same to each and prints its name; one that fails does not stop the others.
fn each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<u8, Failure> {
    let mut last: Option<Failure> = None;
    for name in names {
        match act(name) {
            Ok(()) => print(&format!("{name}\n"))?,
            Err(e) => {
                if let Some(failure) = last.replace(e.into()) {
                    failure.report();
                }
            }
        }
    }
    last.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_at_fault_has_codes_of_its_own() {
        let guest =
            "create failed: guest: unable to start container process: exec: \"x\": executable file not found in $PATH";
        for (kind, text, code) in [
            (Kind::NotFound, guest, 127),
            (
                Kind::Denied,
                "unable to start container process: exec: \"/etc\": permission denied",
                126,
            ),
            (
                Kind::Io,
                "unable to start container process: exec /x: exec format error",
                126,
            ),
            (Kind::NotFound, "unable to start container process: chdir to cwd", 125),
            (Kind::NotFound, "no such image", 125),
        ] {
            assert_eq!(Failure::of_start(Error::new(kind, text)).code, code, "{text}");
        }
    }

    #[test]
    fn the_others_go_on_when_one_fails() {
        let mut done = Vec::new();
        let names = ["a", "b", "c"].map(str::to_owned);
        let outcome = each(&names, |name| {
            done.push(name.to_owned());
            if name == "b" {
                return Err(Error::new(Kind::Io, "b"));
            }
            Ok(())
        });
        assert_eq!(done, ["a", "b", "c"]);
        assert_eq!(outcome.unwrap_err().code, FAILED);
    }
}
