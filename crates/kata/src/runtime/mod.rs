// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata-runtime`: the OCI command line. A thin client of a sandbox's monitor; each verb is a few calls.
//!
//! Exit codes: 0; the process's own for a foreground `run` and `exec`; 255 when `exec` cannot start its process; else 1. An error is
//! one line on standard error and, with `--log`, one in the log.

mod arguments;
pub mod container;
pub mod create;
pub mod delete;
mod events;
pub mod exec;
mod hook;
mod join;
pub mod lease;
mod list;
mod process;
pub mod resources;
pub mod signal;
pub mod table;
pub mod verbs;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base::{Context, Error, Kind, Result};
use clap::Parser;
use config::Loaded;
use sandbox::passt::Wish;

use crate::node;
use crate::settings::{Choice, WITHOUT};
use crate::shim::{self, Log};
use arguments::{Line, Verb};

/// What the global flags say.
#[derive(Debug, Clone)]
pub struct Globals {
    /// Absolute.
    pub root: PathBuf,
    /// Of monitors and shims that are started.
    pub log: Log,
    /// Specs name control groups as systemd does.
    pub systemd_cgroup: bool,
    /// The network of containers whose spec asks for one of their own, which nobody fills.
    pub user_network: Option<Wish>,
    /// The configuration.
    pub settings: Arc<Loaded>,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Line as clap::CommandFactory>::command()
}

/// What a program of this name chooses, if it is this one: `kata-runtime`, or with a profile `kata-runtime-NAME`.
pub fn profile(name: &str) -> Option<Choice> {
    let profile = match name.strip_prefix("kata-runtime")? {
        "" => None,
        rest => Some(rest.strip_prefix('-')?.to_owned()),
    };
    Some(Choice { config: None, profile })
}

/// `args` without the program's name and the role's word; `choice` is what these have chosen.
pub fn main(choice: Choice, args: &[OsString]) -> ExitCode {
    // What the engine left open is for none of our children.
    shim::sys::keep_descriptors_to_ourselves();
    let words = std::iter::once(OsString::from("kata-runtime")).chain(args.iter().cloned());
    let line = match Line::try_parse_from(words) {
        Ok(line) => Line {
            choice: Choice {
                config: line.choice.config.or(choice.config),
                profile: line.choice.profile.or(choice.profile),
            },
            ..line
        },
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    let exec = matches!(line.verb, Some(Verb::Exec(_)));
    let prefix = match &line.verb {
        Some(Verb::Create(_)) => "kata-runtime create failed: ",
        Some(Verb::Run(_)) => "kata-runtime run failed: ",
        Some(Verb::Exec(_)) => "exec failed: ",
        _ => "",
    };
    let logged = line.log.is_some();
    match globals(&line).and_then(|globals| act(line, &globals)) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            let message = format!("{prefix}{}", e.chain()).replace('\n', " ");
            if logged {
                log::error!("{message}");
            }
            log::debug!("{e:?}");
            eprintln!("{message}");
            ExitCode::from(if exec { 255 } else { 1 })
        }
    }
}

fn globals(line: &Line) -> Result<Globals> {
    let loaded = line.choice.load();
    let (settings, wrong) = match loaded {
        Ok(settings) => (settings, None),
        // Told once it is known where to.
        Err(e) => (line.choice.without_files()?, Some(e)),
    };
    let config = &settings.config;
    let format = line.log_format.as_ref().unwrap_or(&config.log.format);
    let json = match format.as_str() {
        "text" => false,
        "json" => true,
        other => return Err(Error::new(Kind::Invalid, format!("invalid log-format: {other}"))),
    };
    let root = line.root.as_ref().unwrap_or(&config.runtime.root);
    let root = std::path::absolute(root).attempt(|| format!("root directory {}", root.display()))?;
    let file = line.log.as_ref().or(config.log.file.as_ref());
    let file = file.map(std::path::absolute).transpose();
    let log = Log {
        file: file.attempt(|| "find the log file".into())?,
        json,
        debug: line.debug || config.log.debug,
    };
    log.start("runtime")?;
    match wrong {
        None => {}
        Some(e) if matches!(line.verb, Some(Verb::Create(_) | Verb::Run(_))) => return Err(e),
        Some(e) => log::warn!("{WITHOUT}: {}", e.chain()),
    }
    Ok(Globals {
        root,
        log,
        systemd_cgroup: line.systemd_cgroup || config.runtime.systemd_cgroup,
        user_network: None,
        settings,
    })
}

fn act(line: Line, globals: &Globals) -> Result<u8> {
    if line.version {
        print(&version())?;
        return Ok(0);
    }
    let Some(verb) = line.verb else {
        let help = <Line as clap::CommandFactory>::command().render_long_help();
        print(&help.to_string())?;
        return Ok(0);
    };
    let done = match verb {
        Verb::Create(args) => create::create(globals, &args),
        Verb::Run(args) => return create::run(globals, &args),
        Verb::Exec(args) => return exec::exec(globals, &args),
        Verb::Start { id } => verbs::start(globals, &id),
        Verb::State { id } => verbs::state(globals, &id),
        Verb::Kill { all, id, signal } => verbs::kill(globals, &id, signal.as_deref().unwrap_or("TERM"), all),
        Verb::Delete { force, id } => delete::delete(globals, &id, force),
        Verb::Ps { format, id, .. } => list::processes(globals, &id, format),
        Verb::Pause { id } => verbs::pause(globals, &id),
        Verb::Resume { id } => verbs::resume(globals, &id),
        Verb::Update(args) => verbs::update(globals, &args),
        Verb::Events { interval, stats, id } => events::events(globals, &id, &interval, stats),
        Verb::Metrics { id } => node::show(&globals.root, &id),
        Verb::List { format, quiet } => list::containers(globals, format, quiet),
        Verb::Spec { bundle, rootless } => verbs::spec(bundle.as_deref(), rootless),
        Verb::Features => verbs::features(),
        Verb::Checkpoint { .. } | Verb::Restore { .. } => {
            let what = "checkpoint and restore are not supported: a container is a machine here";
            Err(Error::new(Kind::Unsupported, what))
        }
    };
    done.map(|()| 0)
}

fn version() -> String {
    let ours = env!("CARGO_PKG_VERSION");
    format!("kata-runtime version {ours}\nspec: {}\n", oci::spec::VERSION)
}

/// To standard output, whose reader may have gone.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .attempt(|| "write to standard output".into())
}
