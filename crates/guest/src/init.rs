// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The helper: one thread, started by `launch` for one process of a container, which it forks and leaves to
//! PID 1. What needs the guest's privileges and paths is opened here, before the container's namespaces are
//! entered.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use base::{Context, Error, Kind, Result};
use nix::unistd::{ForkResult, dup2_stdin, setsid};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::console::Console;
use crate::launch::{Join, ROLE, Request};
use crate::program::{self, Streams};
use crate::rootfs::Rootfs;
use crate::{hook, namespace, sys};

/// To be called first in `main`: takes the helper's role if this process was started for it, and then says how
/// to exit. None: this is the agent itself.
pub fn main() -> Option<ExitCode> {
    let role = std::env::args_os().nth(1);
    (role.as_deref() == Some(OsStr::new(ROLE))).then(help)
}

fn help() -> ExitCode {
    let channel = match own_channel() {
        Ok(channel) => channel,
        Err(e) => {
            eprintln!("{}", e.chain());
            return ExitCode::FAILURE;
        }
    };
    match serve(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            channel.fail(&e);
            ExitCode::FAILURE
        }
    }
}

/// It came as stdin, the one descriptor that can be handed on without unsafe code.
fn own_channel() -> Result<Channel> {
    let channel = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .attempt(|| "take the channel".into())?;
    let null = std::fs::File::open("/dev/null").attempt(|| "open /dev/null".into())?;
    dup2_stdin(&null).attempt(|| "replace stdin".into())?;
    Ok(Channel::from(channel))
}

fn serve(channel: &Channel) -> Result<()> {
    // The agent has gone.
    let Some((_, mut fds)) = channel.receive()? else {
        return Ok(());
    };
    if fds.is_empty() {
        return Err(Error::new(Kind::Bug, "the request is missing"));
    }
    let text = fds.remove(0);
    // The writer's position is shared.
    nix::unistd::lseek(&text, 0, nix::unistd::Whence::SeekSet).attempt(|| "rewind the request".into())?;
    let request: Request = serde_json::from_reader(std::io::BufReader::new(std::fs::File::from(text)))
        .context(Kind::Bug, || "decode the request".into())?;
    let streams = fds;
    match &request.join {
        None => create(channel, &request, streams),
        Some(join) => exec(channel, &request, join, streams),
    }
}

fn create(channel: &Channel, request: &Request, streams: Vec<OwnedFd>) -> Result<()> {
    Cgroup::enter(&request.cgroup, None)?;
    let rootfs = Rootfs::open(&request.spec)?;
    namespace::unshare(&request.spec)?;
    fork(channel, || {
        setsid().attempt(|| "make a session".into())?;
        namespace::name(&request.spec)?;
        let mut rootfs = rootfs.lay(&request.spec, &request.cgroup, channel)?;
        let stdio = match streams.len() {
            3 => Streams::Given(streams),
            _ => Streams::Terminal(Console::open(rootfs.root(), &request.spec)?),
        };
        if let Streams::Terminal(console) = &stdio {
            rootfs.place_console(console)?;
        }
        hook::create_container(&request.id, &request.spec)?;
        rootfs.enter(&request.spec)?;
        program::run(channel, request, &stdio)
    })
}

fn exec(channel: &Channel, request: &Request, join: &Join, streams: Vec<OwnedFd>) -> Result<()> {
    Cgroup::enter(&request.cgroup, Some(join.init))?;
    namespace::join(&request.spec, join.init)?;
    fork(channel, || {
        setsid().attempt(|| "make a session".into())?;
        let stdio = match streams.len() {
            3 => Streams::Given(streams),
            _ => {
                let root = std::fs::File::open("/").attempt(|| "open /".into())?;
                Streams::Terminal(Console::open(root.as_fd(), &request.spec)?)
            }
        };
        program::run(channel, request, &stdio)
    })
}

/// Runs `child` in a child, whose pid the agent has learnt by then; returns in the parent only.
fn fork(channel: &Channel, child: impl FnOnce() -> Result<std::convert::Infallible>) -> Result<()> {
    let (told, tell) = std::io::pipe().attempt(|| "make a pipe".into())?;
    match sys::fork().attempt(|| "fork the container's process".into())? {
        ForkResult::Parent { child } => {
            let sent = channel.send(&Message::Forked(child.as_raw()), &[]);
            drop(tell);
            sent
        }
        ForkResult::Child => {
            drop(tell);
            let mut nothing = [0];
            let _ = nix::unistd::read(&told, &mut nothing);
            drop(told);
            let Err(e) = child();
            channel.fail(&e);
            std::process::exit(1)
        }
    }
}
