// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The program of a container that only holds namespaces for others, where the engine has none for it: the agent's own, under another
//! name. As the first of its processes it reaps what the others leave.

use std::fs::File;
use std::process::ExitCode;

use base::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::program::Program;

/// Its command line, by which it is told from the agent's other roles.
pub const NAME: &str = "/pause";

/// To be called where the container's /proc is.
pub fn open() -> Result<Program> {
    let file = File::open("/proc/self/exe").attempt(|| "open /proc/self/exe".into())?;
    Ok(Program::Own(file.into(), crate::tree::c_string(NAME)?))
}

/// Until it is told to end.
pub fn wait() -> ExitCode {
    let awaited = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    // Blocked ones reach the first process of a namespace, too.
    if awaited.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// One signal may stand for the ends of many.
fn reap() {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    loop {
        match waitid(Id::All, flags) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
