// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata standby`: machines that wait for their containers. A keeper makes them one after the other; whoever starts a container takes
//! one, if it fits, and the keeper makes the next.
//!
//! ```text
//! kata standby start ──► kata standby keep (the keeper) ──lease──► kata monitor --standby=… (one per machine)
//!                                                                        ▲ door: mounts, lease, words
//!                                                           kata-runtime create, kata run, …
//! ```

mod keeper;
pub mod pool;
pub mod request;
pub mod sys;
mod take;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use clap::{Args, Parser, Subcommand};
use config::{Config, Loaded};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;

use crate::line;
use crate::runtime::print;
use crate::settings::{self, Choice};
use crate::shim::{self, Log, parse_refusal};
use pool::Pool;

pub use take::take;

/// How long the keeper may take to end all machines.
const ENDING: Duration = Duration::from_secs(60);

/// Machines that wait for containers, so that these start at once
#[derive(Debug, Parser)]
#[command(
    name = "kata standby",
    disable_version_flag = true,
    after_help = "Directory: standby.directory of the configuration (/run/kata-standby). A machine that waits serves a container that wants a machine of its
size and nothing special; any other container starts as without. Each takes some 150 MiB of memory until it is taken."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make machines that wait, and keep as many; return when they do
    Start(Start),
    /// End those that wait; those that were taken live on
    Stop,
    /// Show them
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The process that keeps them
    #[command(hide = true)]
    Keep(Keep),
}

#[derive(Debug, Clone, Args)]
struct Start {
    /// How many [default: standby.count of the configuration, 1]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    count: Option<u16>,
    /// Virtual CPUs [default: standby.vcpus of the configuration, those of a container without limits]
    #[arg(long)]
    vcpus: Option<u32>,
    /// Memory [default: standby.memory of the configuration, that of a container without limits]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
}

#[derive(Debug, Args)]
struct Keep {
    #[command(flatten)]
    start: Start,
    /// Told when all of them wait
    #[arg(long)]
    ready_fd: i32,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Line as clap::CommandFactory>::command()
}

/// `args` without the program's name and the role's word.
pub fn main(choice: &Choice, args: &[OsString]) -> ExitCode {
    let line = match line::parse::<Line>("kata standby", args) {
        Ok(line) => line,
        Err(code) => return code,
    };
    match run(choice, line.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kata standby: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(choice: &Choice, verb: Verb) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Kind::Denied, "must be run as root"));
    }
    let settings = match verb {
        Verb::Start(_) | Verb::Keep(_) => choice.load(),
        Verb::Stop | Verb::Status { .. } => Log::default().start("standby").and_then(|()| choice.load_or_default()),
    }?;
    let pool = Pool::of(&settings.config);
    match verb {
        Verb::Keep(keep) => keeper::keep(&pool, &keep.start.over(&settings.config), keep.ready_fd),
        Verb::Start(wanted) => start(&pool, &settings, &wanted.over(&settings.config)),
        Verb::Stop => stop(&pool),
        Verb::Status { json } => status(&pool, json),
    }
}

/// Starts the keeper, away from the terminal, and waits until its machines wait.
fn start(pool: &Pool, settings: &Loaded, wanted: &Wanted) -> Result<()> {
    shim::sys::keep_descriptors_to_ourselves();
    let what = || "start the keeper".to_owned();
    let (ours, theirs) = UnixStream::pair().attempt(what)?;
    let theirs = OwnedFd::from(theirs);
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).attempt(what)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kata").args(["standby", "keep"]);
    command.args(["--count", &wanted.count.to_string()]);
    command.args(["--ready-fd", &theirs.as_raw_fd().to_string()]);
    command.args(wanted.size());
    settings::pass(&settings.selection, &mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.current_dir("/").spawn().attempt(what)?;
    drop(theirs);
    let mut line = String::new();
    BufReader::new(&ours).read_line(&mut line).attempt(what)?;
    if line.trim_end() == "ready" {
        return print(&format!("{} machines wait\n", wanted.count));
    }
    let _ = child.wait();
    let refused = line.trim_end().strip_prefix("error ").and_then(parse_refusal);
    Err(refused.unwrap_or_else(|| {
        let why = format!("it ended; {} may say why", pool.log().display());
        Error::new(Kind::Gone, what()).because(why)
    }))
}

/// What is to be kept.
#[derive(Debug, Clone)]
struct Wanted {
    count: u16,
    vcpus: Option<u32>,
    memory: Option<u64>,
}

impl Start {
    /// With the configuration where the line says nothing.
    fn over(&self, config: &Config) -> Wanted {
        let count = u16::try_from(config.standby.count).unwrap_or(u16::MAX);
        Wanted {
            count: self.count.unwrap_or(count),
            vcpus: self.vcpus.or(config.standby.vcpus),
            memory: self.memory.or(config.standby.memory.map(u64::from)),
        }
    }
}

impl Wanted {
    /// As arguments.
    fn size(&self) -> Vec<String> {
        let words = [
            ("--vcpus", self.vcpus.map(|vcpus| vcpus.to_string())),
            ("--memory", self.memory.map(|memory| memory.to_string())),
        ];
        let words = words
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| [name.to_owned(), value]));
        words.flatten().collect()
    }
}

/// Ends the keeper, and with it all that waits. What a keeper has left that was killed goes too.
fn stop(pool: &Pool) -> Result<()> {
    let Some(keeper) = pool.keeper()? else {
        return pool.remove();
    };
    let held = match Pidfd::open(keeper.pid) {
        Err(e) if e.kind() == Kind::NotFound => return pool.remove(),
        other => other?,
    };
    // It may have ended between the two looks, and another process have its pid.
    if pool.keeper()?.as_ref() == Some(&keeper) {
        held.signal(libc::SIGTERM)?;
        if !held.wait(Some(ENDING))? {
            let what = format!("end the keeper, process {}", keeper.pid);
            return Err(Error::new(Kind::Timeout, what));
        }
    }
    pool.remove()
}

fn status(pool: &Pool, json: bool) -> Result<()> {
    let (keeper, names) = (pool.keeper()?, pool.names()?);
    if json {
        let machines = names.iter().map(|name| {
            let about = pool.about(name);
            json!({ "name": name, "ready": about.is_some(), "about": about })
        });
        let machines: Vec<_> = machines.collect();
        let all = json!({ "directory": pool.dir(), "keeper": keeper, "machines": machines });
        return print(&format!("{all}\n"));
    }
    let mut text = match &keeper {
        Some(keeper) => format!("keeper: process {}, {} machines\n", keeper.pid, keeper.count),
        None => "keeper: none (kata standby start)\n".to_owned(),
    };
    for name in &names {
        let line = match pool.about(name) {
            Some(about) => format!(
                "{name}  waits    {} vCPUs, {} MiB, process {}\n",
                about.vcpus, about.memory_mib, about.monitor
            ),
            None => format!("{name}  is made\n"),
        };
        text.push_str(&line);
    }
    print(&text)
}
