// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The KVM lab: runs a command where KVM works. On a host with hardware virtualization that is the host itself; elsewhere an
//! emulated machine with nested virtualization, which sees the host's files (changes to them are its own and end with it) and
//! the working tree, the current directory, which it shares.
//!
//! It keeps its files in one directory and leaves nothing else; its machine ends with it.

mod hidden;
mod initramfs;
mod kernel;
mod machine;
mod session;
mod snapshot;
mod sys;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use base::{Context, Kind, Result};
use snapshot::Shelf;

const USAGE: &str = "usage: lab DIRECTORY COMMAND
Runs COMMAND (a line for sh) where KVM works; the lab keeps its snapshot in DIRECTORY.
LAB_ALWAYS=1 uses the lab where the host has KVM, too. LAB_MEMORY_MIB=N gives it other than 3072 MiB of memory.
Exit code: that of COMMAND; 77 where there can be no lab; 1 when it fails.";

/// There can be no lab here. Test runners know this code as "skipped".
const UNSUPPORTED: u8 = 77;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, command] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(Path::new(directory), command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("lab: {}", e.chain());
            match e.kind() {
                Kind::Unsupported => ExitCode::from(UNSUPPORTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(directory: &Path, command: &str) -> Result<u8> {
    let kvm = ::machine::kvm::probe();
    if kvm.usable && env::var_os("LAB_ALWAYS").is_none() {
        eprintln!("lab: on this host: {}", kvm.reason);
        return directly(command);
    }
    let tree = env::current_dir().attempt(|| "find the working tree".into())?;
    let directory = std::path::absolute(directory).attempt(|| format!("find {}", directory.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.attempt(|| "start a runtime".into())?.block_on(async {
        let mut shelf = Shelf::open(&directory, memory_mib()?)?;
        let lab = shelf.lab(&tree).await?;
        // It has read what it needs: others may make another snapshot.
        drop(shelf);
        session::run(lab, &tree, command).await
    })
}

/// What a lab is to have.
fn memory_mib() -> Result<u32> {
    match env::var("LAB_MEMORY_MIB") {
        Ok(text) => text.parse().attempt(|| format!("read LAB_MEMORY_MIB={text}")),
        Err(_) => Ok(machine::MEMORY_MIB),
    }
}

fn directly(command: &str) -> Result<u8> {
    let status = Command::new("sh").args(["-c", command]).status();
    let status = status.attempt(|| "start sh".into())?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).context(Kind::Bug, || "read an exit code".into())
}
