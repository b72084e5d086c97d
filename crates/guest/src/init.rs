// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The helper: one thread, started for one process of a container, which it forks and leaves to PID 1. What
//! needs the guest's privileges and paths is opened here, before the container's mount and user namespaces
//! are entered.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use base::{Context, Error, Kind, Result};
use nix::unistd::{ForkResult, dup2_stdin, setsid};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::console::Console;
use crate::launch::{ROLE, Request};
use crate::nest::Shape;
use crate::program::{self, Streams};
use crate::rootfs::Rootfs;
use crate::stock::Stock;
use crate::{hook, namespace, pause, sys};

/// To be called first in `main`: takes the helper's role, or that of [`pause`], if this process was started for it, and then says how
/// to exit. None: this is the agent itself.
pub fn main() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let (name, role) = (words.next(), words.next());
    if name.as_deref() == Some(OsStr::new(pause::NAME)) {
        return Some(pause::wait());
    }
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
    // The agent has gone, or does not want it any more.
    let Some((message, _)) = channel.receive()? else {
        return Ok(());
    };
    let Message::Prepare(shape) = message else {
        return Err(Error::new(Kind::Bug, "the shape is missing"));
    };
    Cgroup::enter(&shape.cgroup, shape.join)?;
    let early = shape.early();
    if early.is_empty() {
        let Some(order) = take(channel)? else {
            return Ok(());
        };
        let rootfs = enter(&shape, &order.request, order.joined, Stock::default())?;
        return fork(channel, || live(channel, &shape, &order.request, rootfs, order.streams));
    }
    nix::sched::unshare(early).attempt(|| format!("make the namespaces {early:?}"))?;
    fork(channel, || {
        let mut stock = Stock::default();
        if shape.ahead {
            stock = Stock::make();
            channel.send(&Message::Ready, &[])?;
        }
        let Some(order) = take(channel)? else {
            std::process::exit(0);
        };
        let rootfs = enter(&shape, &order.request, order.joined, stock)?;
        live(channel, &shape, &order.request, rootfs, order.streams)
    })
}

/// Opens what the guest has for a new container, and leaves the guest's namespaces for those that are still missing; or enters those
/// of a container that runs.
fn enter(shape: &Shape, request: &Request, joined: Vec<OwnedFd>, stock: Stock) -> Result<Option<Rootfs>> {
    if let Some(init) = shape.join {
        namespace::join(&request.spec, init)?;
        return Ok(None);
    }
    let rootfs = Rootfs::open(&request.spec, stock)?;
    let joined: Vec<_> = request.joined.iter().copied().zip(joined).collect();
    namespace::leave(&request.spec, shape.early(), &joined)?;
    Ok(Some(rootfs))
}

/// The container's process.
fn live(
    channel: &Channel,
    shape: &Shape,
    request: &Request,
    rootfs: Option<Rootfs>,
    streams: Vec<OwnedFd>,
) -> Result<Infallible> {
    let given = streams.len() == 3;
    let Some(rootfs) = rootfs else {
        let stdio = if given {
            Streams::Given(streams)
        } else {
            let root = std::fs::File::open("/").attempt(|| "open /".into())?;
            Streams::Terminal(Console::open(root.as_fd(), &request.spec)?)
        };
        return program::run(channel, request, true, &stdio);
    };
    namespace::name(&request.spec)?;
    let mut rootfs = rootfs.lay(&request.spec, &shape.cgroup, channel)?;
    let stdio = if given {
        Streams::Given(streams)
    } else {
        Streams::Terminal(Console::open(rootfs.root(), &request.spec)?)
    };
    if let Streams::Terminal(console) = &stdio {
        rootfs.place_console(console)?;
    }
    hook::create_container(&request.id, &request.spec)?;
    rootfs.enter(&request.spec)?;
    program::run(channel, request, false, &stdio)
}

/// A request with its descriptors.
#[derive(Debug)]
struct Order {
    request: Request,
    /// Namespaces.
    joined: Vec<OwnedFd>,
    streams: Vec<OwnedFd>,
}

fn take(channel: &Channel) -> Result<Option<Order>> {
    let Some((message, mut fds)) = channel.receive()? else {
        return Ok(None);
    };
    let Message::Request(length) = message else {
        return Err(Error::new(Kind::Bug, "the request is missing"));
    };
    let Some(bytes) = channel.take(length)? else {
        return Ok(None);
    };
    // From a slice, as the agent parses the spec: code that an emulated guest has translated already.
    let request: Request = serde_json::from_slice(&bytes).context(Kind::Bug, || "decode the request".into())?;
    if fds.len() < request.joined.len() {
        return Err(Error::new(Kind::Bug, "a namespace is missing"));
    }
    let streams = fds.split_off(request.joined.len());
    Ok(Some(Order {
        request,
        joined: fds,
        streams,
    }))
}

/// Runs `child` in a child with a session of its own, whose pid the agent has learnt by then; returns in the parent only.
fn fork(channel: &Channel, child: impl FnOnce() -> Result<Infallible>) -> Result<()> {
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
            let Err(e) = setsid().attempt(|| "make a session".into()).and_then(|_| child());
            channel.fail(&e);
            std::process::exit(1)
        }
    }
}
