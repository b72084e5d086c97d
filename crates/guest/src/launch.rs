// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Starting the helper from the agent, and following what it reports until the process is there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio as Slot};

use base::{Context, Error, Kind, Result};
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Message, kind};
use crate::rlimit;
use crate::tree::Tree;

/// The word that makes [`crate::init::main`] take the helper's role.
pub const ROLE: &str = "container-process";

/// What a process's standard streams are.
#[derive(Debug)]
pub enum Stdio {
    /// A new terminal inside the container; its master comes back as [`Process::console`].
    Terminal,
    /// Descriptors of the agent; none is /dev/null.
    Streams {
        /// Read by the process.
        stdin: Option<OwnedFd>,
        /// Written by the process.
        stdout: Option<OwnedFd>,
        /// Written by the process.
        stderr: Option<OwnedFd>,
    },
}

/// A process that exists; the agent reaps it.
#[derive(Debug)]
pub struct Process {
    /// In the agent's pid namespace.
    pub pid: i32,
    /// Master of the terminal.
    pub console: Option<OwnedFd>,
}

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The container.
    pub id: String,
    /// Localized.
    pub spec: oci::Spec,
    /// Types of the namespaces that are joined.
    pub joined: Vec<oci::LinuxNamespaceType>,
    /// Its program is [`crate::pause`].
    pub pause: bool,
}

/// A process that waits for the word to execute its program; it ends if this is dropped.
#[derive(Debug)]
pub struct Waiting {
    channel: Channel,
}

impl Waiting {
    /// Lets it execute the program. Errors: as runc words them when there is no such program; `Gone` when the
    /// process was killed before.
    pub fn go(self) -> Result<()> {
        match self.channel.send(&Message::Go, &[]) {
            Ok(()) => {}
            // It may have said why it ended.
            Err(e) => match self.follow() {
                Ok(()) => return Err(e).context(Kind::Gone, || "the process has ended before its start".into()),
                Err(e) => return Err(e),
            },
        }
        self.follow()
    }

    fn follow(&self) -> Result<()> {
        while let Some((message, _)) = self.channel.receive()? {
            note(message)?;
        }
        Ok(())
    }
}

/// Errors: what the other end failed at. Warnings are logged.
pub fn note(message: Message) -> Result<Message> {
    match message {
        Message::Failed(code, text) => Err(Error::new(kind(code), text)),
        Message::Warning(text) => {
            log::warn!("{text}");
            Ok(Message::Warning(text))
        }
        other => Ok(other),
    }
}

/// Starts a helper; it waits for its shape at the other end.
pub fn start_helper() -> Result<Channel> {
    let (ours, theirs) = Channel::pair()?;
    // A container may execute /proc/self/exe, that is us, and write to it later: it gets a read-only view.
    let program = Tree::open(c"/proc/self/exe", false)?;
    program.set(libc::MOUNT_ATTR_RDONLY, 0, false)?;
    // The helper ends by itself, and the agent's reaper takes it.
    Command::new(format!("/proc/self/fd/{}", program.as_fd().as_raw_fd()))
        .arg(ROLE)
        .env_clear()
        .stdin(Slot::from(OwnedFd::from(theirs)))
        .stdout(Slot::null())
        .spawn()
        .attempt(|| "start the helper".into())?;
    Ok(ours)
}

/// Has the helper at the other end of `channel`, or the process `pid` that it has forked, do what `request` says, until the process
/// is ready for its program. `joined`: the namespaces of [`Request::joined`].
pub fn launch(
    channel: Channel,
    pid: Option<i32>,
    request: &Request,
    joined: Vec<OwnedFd>,
    stdio: Stdio,
) -> Result<(Process, Waiting)> {
    let process = request.spec.process().as_ref();
    let process = process.ok_or_else(|| Error::new(Kind::Bug, "launch without a process"))?;
    let asked = match channel.ask(request, joined, stdio) {
        // It may have said why it ended.
        Err(e) if e.kind() == Kind::Gone => Err(e),
        other => Ok(other?),
    };
    let mut pid = pid;
    while let Some((message, mut fds)) = channel.receive()? {
        match (note(message)?, pid) {
            (Message::Forked(child), _) => pid = Some(child),
            (Message::Ready, Some(pid)) => {
                rlimit::apply(pid, process)?;
                let process = Process {
                    pid,
                    console: fds.pop(),
                };
                return Ok((process, Waiting { channel }));
            }
            (Message::Ready, None) => break,
            _ => {}
        }
    }
    let what = format!("a process of container {} was killed while it was made", request.id);
    match asked {
        Err(e) => Err(e).context(Kind::Gone, || what),
        Ok(()) => Err(Error::new(Kind::Gone, what)),
    }
}

impl Channel {
    fn ask(&self, request: &Request, joined: Vec<OwnedFd>, stdio: Stdio) -> Result<()> {
        let json = serde_json::to_vec(request).context(Kind::Bug, || "encode the request".into())?;
        let mut fds = joined;
        if let Stdio::Streams { stdin, stdout, stderr } = stdio {
            let null = || {
                let file = std::fs::File::options().read(true).write(true).open("/dev/null");
                file.map(OwnedFd::from).attempt(|| "open /dev/null".into())
            };
            for stream in [stdin, stdout, stderr] {
                fds.push(stream.map_or_else(null, Ok)?);
            }
        }
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.send(&Message::Request(json.len()), &fds)?;
        self.give(&json)
    }
}
