// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The programs and headers that compile a kernel, with the packages that have them.

use std::io::Write;
use std::process::{Command, Stdio};

use base::{Context, Error, Kind, Result};

/// What is run, each with its Debian package.
const PROGRAMS: [(&str, &str); 7] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
];
/// What the kernel's own tools include.
const HEADERS: [(&str, &str); 2] = [("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// What compiles: another version may make another kernel of the same source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// As gcc says it.
    pub compiler: String,
    /// As ld says it.
    pub linker: String,
}

impl Toolchain {
    /// Looks for everything. [`Kind::NotFound`] with all that is missing and how to get it.
    pub fn find() -> Result<Toolchain> {
        let mut missing: Vec<(&str, &str)> = PROGRAMS.into_iter().filter(|(name, _)| !is_there(name)).collect();
        if !missing.iter().any(|(name, _)| *name == "gcc") {
            missing.extend(HEADERS.into_iter().filter(|(name, _)| !has_header(name)));
        }
        if !missing.is_empty() {
            return Err(lacking(&missing));
        }
        Ok(Toolchain {
            compiler: version("gcc")?,
            linker: version("ld")?,
        })
    }
}

fn lacking(missing: &[(&str, &str)]) -> Error {
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let reason = format!(
        "to compile a kernel, {} {verb} missing: apt-get install {}",
        names.join(", "),
        packages.join(" ")
    );
    Error::new(Kind::NotFound, reason)
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn is_there(program: &str) -> bool {
    quiet(program).arg("--version").status().is_ok()
}

fn has_header(name: &str) -> bool {
    let mut command = quiet("gcc");
    command.args(["-fsyntax-only", "-x", "c", "-"]).stdin(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return false };
    // A compiler that does not read its input says so by its status.
    let _ = child.stdin.take().map(|mut input| writeln!(input, "#include <{name}>"));
    child.wait().is_ok_and(|status| status.success())
}

fn version(program: &str) -> Result<String> {
    let tried = || format!("run {program} --version");
    let output = quiet(program).arg("--version").stdout(Stdio::piped()).output();
    let text = String::from_utf8_lossy(&output.attempt(tried)?.stdout).into_owned();
    let first = text.lines().next().map(str::to_owned);
    first.ok_or_else(|| Error::new(Kind::Unsupported, format!("{program} does not say its version")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_one_command_to_get_it() {
        let text = lacking(&[
            ("ld", "binutils"),
            ("strip", "binutils"),
            ("flex", "flex"),
            ("gelf.h", "libelf-dev"),
        ])
        .chain();
        assert!(text.contains("ld, strip, flex, gelf.h are missing"), "{text}");
        assert!(text.ends_with("apt-get install binutils flex libelf-dev"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_noticed() {
        assert!(!is_there("kata-no-such-program"));
        assert!(is_there("true"));
    }
}
