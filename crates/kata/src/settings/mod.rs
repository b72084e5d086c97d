// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata config`: shows, checks and imports configurations. And how each role gets its own: what can be configured, the crate `config`
//! knows.
//!
//! A process that needs a configuration reads it itself; it hands on which one by the environment.

mod check;
mod import;
mod show;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use base::Result;
use clap::{Args, Parser, Subcommand};
use config::{Faults, Loaded, Selection};
use oci::{Bundle, Overrides};

use crate::line;

/// Before what is wrong, where that does not matter much.
pub const WITHOUT: &str = "defaults are used";

/// Which configuration: options that stand before any word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Choice {
    /// Configuration in place of /etc/kata/config.toml; drop-ins beside it (KATA_CONFIG says the same)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Profile of the configuration (KATA_PROFILE says the same)
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

impl Choice {
    /// Those that `args` begin with, and what follows them. A mistake in them is left to whoever reads the rest.
    pub fn leading(args: &[OsString]) -> (Choice, &[OsString]) {
        let mut choice = Choice::default();
        let mut rest = args;
        while let [word, after @ ..] = rest {
            let text = word.to_str().unwrap_or_default();
            let (name, given) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            if !["--config", "--profile"].contains(&name) {
                break;
            }
            let (value, after) = match (given, after) {
                (Some(value), after) => (value, after),
                (None, [value, after @ ..]) => (value.clone(), after),
                (None, []) => break,
            };
            if name == "--config" {
                choice.config = Some(value.into());
            } else {
                choice.profile = Some(value.to_string_lossy().into_owned());
            }
            rest = after;
        }
        (choice, rest)
    }

    /// With that of the environment below it.
    pub fn selection(&self) -> Result<Selection> {
        let environment = Selection::of_environment(&|name| std::env::var_os(name))?;
        environment.with(self.config.clone(), self.profile.clone())
    }

    /// The configuration. Errors: what is wrong with it.
    pub fn load(&self) -> Result<Arc<Loaded>> {
        load(&self.selection()?)
    }

    /// The configuration; one without files, and a line of the log, if something is wrong with it. For what ends or shows containers that
    /// are there: a mistake in a file must not keep them.
    pub fn load_or_default(&self) -> Result<Arc<Loaded>> {
        self.load().or_else(|e| {
            log::warn!("{WITHOUT}: {}", e.chain());
            self.without_files()
        })
    }

    /// What there is when files cannot be read.
    pub fn without_files(&self) -> Result<Arc<Loaded>> {
        let bare = Loaded::bare(&self.selection()?, &|name| std::env::var_os(name));
        Ok(Arc::new(bare))
    }
}

/// The configuration that `selection` names, in our environment.
pub fn load(selection: &Selection) -> Result<Arc<Loaded>> {
    Ok(Arc::new(read(selection)?))
}

fn read(selection: &Selection) -> Result<Loaded, Faults> {
    Loaded::load(selection, &|name| std::env::var_os(name))
}

/// Gives a process that we start the same configuration.
pub fn pass(selection: &Selection, command: &mut Command) {
    for (name, value) in selection.variables() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// What the annotations of a container ask of us, if they may. Errors: `Denied` for one that is not allowed, `Invalid`.
pub fn overrides(settings: &Loaded, bundle: &Bundle) -> Result<Overrides> {
    admit(settings, bundle)?;
    bundle.overrides()
}

/// Errors: an annotation that is not allowed. The answer: lines about those that change nothing.
pub fn admit(settings: &Loaded, bundle: &Bundle) -> Result<Vec<String>> {
    let annotations = bundle.annotations().into_iter().flatten();
    let annotations = annotations.map(|(key, value)| (key.as_str(), value.as_str()));
    config::allow::admit(&settings.config, annotations)
}

/// Configuration: one TOML file with drop-ins
#[derive(Debug, Parser)]
#[command(
    name = "kata config",
    disable_version_flag = true,
    after_help = "Files: /etc/kata/config.toml, then /etc/kata/config.d/*.toml by name; with --config FILE.toml that one and FILE.d/*.toml.
Order: annotations that are allowed, the command line and the environment, the profile, drop-ins, the file, defaults."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what is in force, and where each value comes from
    Show(show::Show),
    /// Look for mistakes: all of them, each with its place and what to do
    Check(check::Check),
    /// Translate a configuration.toml of Kata, and say what became of each of its keys
    Import(import::Import),
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Line as clap::CommandFactory>::command()
}

/// `args` without the program's name and the role's word.
pub fn main(choice: &Choice, args: &[OsString]) -> ExitCode {
    let line = match line::parse::<Line>("kata config", args) {
        Ok(line) => line,
        Err(code) => return code,
    };
    let done = match line.verb {
        Verb::Show(show) => show::run(choice, &show),
        Verb::Check(check) => check::run(choice, &check),
        Verb::Import(import) => import::run(&import),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("kata config: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_before_the_word_are_found() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        for (line, config, profile, rest) in [
            ("run --config x i", None, None, 4),
            ("--config /f --profile p run i", Some("/f"), Some("p"), 2),
            ("--config=/f guest ls", Some("/f"), None, 2),
            ("--profile=a --profile b ps", None, Some("b"), 1),
            ("--config", None, None, 1),
            ("--help", None, None, 1),
        ] {
            let args = words(line);
            let (choice, left) = Choice::leading(&args);
            assert_eq!(choice.config.as_deref(), config.map(std::path::Path::new), "{line}");
            assert_eq!((choice.profile.as_deref(), left.len()), (profile, rest), "{line}");
        }
    }

    #[test]
    fn annotations_that_are_said_to_have_an_effect_are_those_that_have() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        for name in config::allow::EFFECTIVE {
            let key = format!("{}{name}", config::allow::PREFIX);
            let spec = serde_json::json!({
                "ociVersion": "1.0.2", "root": { "path": "rootfs" }, "annotations": { &key: "\u{1}" },
                "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/" }
            });
            std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
            let bundle = Bundle::open(dir.path()).unwrap();
            // No key takes a control character: one that is read complains.
            let error = bundle.overrides().unwrap_err();
            assert!(error.chain().contains(&key), "{}", error.chain());
        }
    }
}
