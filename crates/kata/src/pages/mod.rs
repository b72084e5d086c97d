// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata pages`: writes the manual and the shells' completions from the very definitions that read the command lines, for those
//! who package or install. It knows where a definition is, not what its options mean.

mod completion;
mod man;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base::{Context, Result};
use clap::{Command, Parser, ValueEnum};
use clap_complete::Shell;

use crate::{doctor, guest, node, porcelain, runtime, settings, standby};

/// Writes pages of the manual, or completions for a shell.
#[derive(Debug, Parser)]
#[command(name = "kata pages", disable_version_flag = true)]
struct Arguments {
    what: What,
    /// Directory, which is made if need be
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// DIR/man1 and DIR/man8
    Man,
    Bash,
    Zsh,
    Fish,
}

/// A file below the directory, and its content.
type Page = (PathBuf, Vec<u8>);

/// `args` without the program's name and the role's word.
pub fn main(args: &[OsString]) -> ExitCode {
    let name = OsString::from("kata pages");
    let arguments = match Arguments::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(arguments) => arguments,
        Err(e) => {
            // Nothing is left to say it with if printing fails.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match render(arguments.what).and_then(|pages| write(&arguments.dir, &pages)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kata pages: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn render(what: What) -> Result<Vec<Page>> {
    match what {
        What::Man => man::pages(kata(), runtime::command()),
        What::Bash => Ok(completions(Shell::Bash)),
        What::Zsh => Ok(completions(Shell::Zsh)),
        What::Fish => Ok(completions(Shell::Fish)),
    }
}

fn completions(shell: Shell) -> Vec<Page> {
    // The pages of `kata runtime` are those of `kata-runtime`; who types the former wants its words nevertheless.
    let kata = kata().subcommand(runtime::command().name("runtime"));
    completion::scripts(shell, [kata, runtime::command()])
}

fn write(dir: &Path, pages: &[Page]) -> Result<()> {
    for (name, content) in pages {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(|| format!("create directory {}", parent.display()))?;
        }
        fs::write(&path, content).attempt(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// What a person can type after `kata`: the roles that have definitions of their own are words like the others here.
fn kata() -> Command {
    porcelain::command()
        .subcommand(settings::command().name("config"))
        .subcommand(doctor::command().name("doctor"))
        .subcommand(guest::command().name("guest"))
        .subcommand(standby::command().name("standby"))
        .subcommand(node::command().name("monitor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_below_a_directory_that_did_not_exist() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");
        write(&dir, &render(What::Man).unwrap()).unwrap();
        assert!(dir.join("man1/kata-guest-template-build.1").is_file());
        assert!(dir.join("man8/kata-runtime.8").is_file());
        write(&dir, &render(What::Bash).unwrap()).unwrap();
        assert!(dir.join("kata").is_file() && dir.join("kata-runtime").is_file());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/none"), &render(What::Zsh).unwrap()).unwrap_err();
        assert!(error.chain().contains("/proc/none"), "{}", error.chain());
    }
}
