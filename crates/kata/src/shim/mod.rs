// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata shim`: the host process that an engine takes for the container's. [`Carry`] does the work, in this process or in a
//! foreground command's; [`Launch`] starts the process.

mod arguments;
mod carry;
mod flow;
mod guise;
mod launch;
mod pids;
mod procfs;
mod signals;
mod stream;
pub mod sys;
mod terminal;
mod view;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use base::{Context, Error, Result};
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use crate::berth;
use arguments::Arguments;
pub use carry::{Carry, Stdio};
pub use launch::{Launch, Log, parse_refusal, refusal};
pub use pids::Pids;
pub use stream::Streams;
pub use terminal::Size;

/// If this process is one that [`Launch`] has started: its environment says so. Its command line says what it stands for.
pub fn main() -> Option<ExitCode> {
    let arguments = match Arguments::parse(std::env::vars_os()) {
        Ok(arguments) => arguments?,
        Err(e) => return Some(refused(&e)),
    };
    Some(stand(arguments))
}

fn stand(arguments: Arguments) -> ExitCode {
    let started = guise::take()
        .and_then(|()| arguments.ready())
        .and_then(|ready| arguments.log.start("shim").map(|()| ready));
    let ready = match started {
        Ok(ready) => ready,
        Err(e) => return refused(&e),
    };
    let mut ready = Some(ready);
    match carry(arguments, &mut ready) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            // The launcher reports it.
            if let Some(mut ready) = ready {
                let _ = ready.write_all(refusal(&e).as_bytes());
            }
            ExitCode::FAILURE
        }
    }
}

fn refused(error: &Error) -> ExitCode {
    eprintln!("kata shim: {}", error.chain());
    ExitCode::FAILURE
}

/// Moves to the network namespace of the sandbox: an engine looks for the container's network at our pid, and may put interfaces
/// there.
fn join_network(monitor: &File) -> Result<()> {
    let what = || "join the monitor's network namespace".to_owned();
    let namespace = openat(monitor, "ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).attempt(what)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).attempt(what)
}

fn carry(arguments: Arguments, ready: &mut Option<File>) -> Result<u8> {
    // The shim of `kata run` removes the container in the end, and so does not stand in its group.
    if arguments.record.is_none() {
        crate::cgroup::join(&arguments.dir, pids::own()?)?;
    }
    let sandbox = berth::sandbox(&arguments.dir);
    let monitor = arguments.monitor()?;
    join_network(&monitor)?;
    let stdio = match arguments.console {
        Some(path) => Stdio::Console {
            socket: terminal::connect(&path)?,
            size: arguments.size,
        },
        None => Stdio::inherited(arguments.terminal)?.only(arguments.streams),
    };
    // Only an engine looks at the files of the pid that stands for a container; without one, we write a record at the end.
    let view = match (&arguments.record, arguments.exec_id.as_str()) {
        (None, "") => Some(view::View::find(monitor, &sandbox, &arguments.id)?),
        _ => None,
    };
    let carry = Carry {
        dir: sandbox,
        id: arguments.id.clone(),
        exec_id: arguments.exec_id,
        start: false,
        stdio,
    };
    let code = carry.show(|| {
        // The mounts of the bundle are not ours to hold.
        std::env::set_current_dir("/").attempt(|| "change to /".into())?;
        let entered = view.map(view::View::enter).transpose();
        let processes = entered.attempt(|| "show the container's files".into())?.flatten();
        // The launcher reads to the end.
        let told = ready.take().map_or(Ok(()), |mut ready| ready.write_all(launch::READY));
        told.attempt(|| "tell the runtime that the shim is ready".into())?;
        // Nobody has to wait for it.
        Ok(processes.and_then(|plan| plan.mount(&arguments.id)))
    })?;
    if let Some(record) = arguments.record
        && let Err(e) = crate::porcelain::ended(record, &arguments.dir, &arguments.id, code)
    {
        log::error!("note the end of {}: {}", arguments.id, e.chain());
    }
    Ok(code)
}
