// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Stands in for a process of the guest: carries its streams, signals, window sizes, and at last its exit code. One thread, one poll.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use api::monitor::{AttachRequest, AttachResponse, InspectRequest, InspectResponse};
use api::stream::Hello;
use api::task::api::{
    DeleteRequest, DeleteResponse, KillRequest, ResizePtyRequest, StartRequest, StartResponse, WaitRequest,
    WaitResponse,
};
use base::{Context, Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::saved::Saved;

use super::flow::Flow;
use super::pids;
use super::procfs::Procfs;
use super::signals::Signals;
use super::stream::{self, Streams};
use super::terminal::{self, Raw, Size};
use crate::link::{Answer, Link, MONITOR, TASK, Ticket};

/// Exit code of a process whose end nobody saw: as after SIGKILL.
pub const LOST: u8 = 137;

/// What to carry.
#[derive(Debug)]
pub struct Carry {
    /// Of the sandbox.
    pub dir: PathBuf,
    /// Container.
    pub id: String,
    /// Process in it, which is started by [`Carry::run`]; empty for the container's init.
    pub exec_id: String,
    /// Start the container's init, too.
    pub start: bool,
    /// Where the streams go.
    pub stdio: Stdio,
}

/// Our side of a process's standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// Three streams: input, output, error; `None` where the process has none.
    Streams([Option<OwnedFd>; 3]),
    /// The process has a terminal: input and output here; its size is that of the first of the two (and
    /// the error output) that is a terminal, which is in raw mode while keys come from one.
    Terminal {
        /// Where keys come from.
        input: OwnedFd,
        /// Where its output goes.
        output: OwnedFd,
    },
    /// The process has a terminal, whose other side is given to an engine over this socket.
    Console {
        /// Connected console socket.
        socket: UnixStream,
        /// What the terminal measures at first.
        size: Option<Size>,
    },
}

impl Stdio {
    /// Our own standard streams, for a process with or without a terminal.
    pub fn inherited(terminal: bool) -> Result<Stdio> {
        let what = || "duplicate the standard streams".to_owned();
        let input = std::io::stdin().as_fd().try_clone_to_owned().attempt(what)?;
        let output = std::io::stdout().as_fd().try_clone_to_owned().attempt(what)?;
        if terminal {
            return Ok(Stdio::Terminal { input, output });
        }
        let error = std::io::stderr().as_fd().try_clone_to_owned().attempt(what)?;
        Ok(Stdio::Streams([Some(input), Some(output), Some(error)]))
    }
}

impl Stdio {
    /// Without the streams that the process does not have. A terminal is one stream.
    pub fn only(self, streams: Streams) -> Stdio {
        match self {
            Stdio::Streams([input, output, error]) => {
                let [has_input, has_output, has_error] = streams.0;
                Stdio::Streams([
                    input.filter(|_| has_input),
                    output.filter(|_| has_output),
                    error.filter(|_| has_error),
                ])
            }
            other => other,
        }
    }
}

impl Carry {
    /// Carries until the process has ended and its output is through; the answer is its exit code. `ready` is called when all streams
    /// are connected and the process, if that was asked for, has started. Errors come only before that; afterwards, what is lost
    /// (the monitor, the machine) ends as [`LOST`] with one line in the log.
    pub fn run(self, ready: impl FnOnce() -> Result<()>) -> Result<u8> {
        self.show(|| ready().map(|()| None))
    }

    /// As [`Carry::run`]; serves what `ready` has mounted until the process has ended.
    pub fn show(self, ready: impl FnOnce() -> Result<Option<Procfs>>) -> Result<u8> {
        let mut running = Running::begin(self)?;
        running.procfs = ready()?;
        Ok(running.carry())
    }
}

#[derive(Debug)]
struct Running {
    id: String,
    exec_id: String,
    link: Link,
    signals: Signals,
    flows: Vec<Flow>,
    /// How many of [`Running::flows`], from the first, bring input.
    inputs: usize,
    /// Its window size is the guest terminal's.
    window: Option<OwnedFd>,
    _raw: Option<Raw>,
    wait: Ticket,
    code: Option<u8>,
    procfs: Option<Procfs>,
}

impl Running {
    fn begin(carry: Carry) -> Result<Running> {
        let Carry {
            dir,
            id,
            exec_id,
            start,
            stdio,
        } = carry;
        let mut link = Link::open(&dir).attempt(|| format!("connect to the monitor of {id}"))?;
        let signals = Signals::take()?;
        let request = AttachRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            pid: pids::own()?,
            ..AttachRequest::default()
        };
        link.call::<AttachResponse>(MONITOR, "Attach", &request)?;
        // A process that joins later has its streams only once it runs; the init has them from its creation.
        if !exec_id.is_empty() {
            let started = link.call::<StartResponse>(TASK, "Start", &start_request(&id, &exec_id));
            if let Err(e) = started {
                forget(&mut link, &id, &exec_id);
                return Err(e);
            }
        }
        let dial = |fd| {
            let (id, exec_id) = (id.clone(), exec_id.clone());
            stream::dial(&dir, &Hello { id, exec_id, fd })
        };
        let mut window = None;
        let mut raw = None;
        let (flows, inputs) = match stdio {
            Stdio::Streams([input, output, error]) => {
                let mut flows = Vec::new();
                if let Some(input) = input {
                    flows.push(Flow::new(input, dial(0)?.into(), true));
                }
                let inputs = flows.len();
                for (fd, to) in [(1, output), (2, error)] {
                    if let Some(to) = to {
                        flows.push(Flow::new(dial(fd)?.into(), to, false));
                    }
                }
                (flows, inputs)
            }
            Stdio::Terminal { input, output } => {
                let stream = dial(0)?;
                let error = std::io::stderr();
                if let Some(host) = terminal::first([input.as_fd(), output.as_fd(), error.as_fd()]) {
                    window = Some(host.try_clone_to_owned().attempt(|| "duplicate the terminal".into())?);
                    raw = input.is_terminal().then(|| Raw::enter(host)).transpose()?;
                }
                (both_ways(stream, input, output)?, 1)
            }
            Stdio::Console { socket, size } => {
                let stream = dial(0)?;
                let slave = terminal::offer(&socket, size)?;
                let again = slave.try_clone().attempt(|| "duplicate the terminal".into())?;
                window = Some(slave.try_clone().attempt(|| "duplicate the terminal".into())?);
                (both_ways(stream, slave, again)?, 1)
            }
        };
        let request = WaitRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            ..WaitRequest::default()
        };
        let mut running = Running {
            wait: link.send(TASK, "Wait", &request)?,
            id,
            exec_id,
            link,
            signals,
            flows,
            inputs,
            window,
            _raw: raw,
            code: None,
            procfs: None,
        };
        running.resize();
        if start && running.exec_id.is_empty() {
            running.start_init()?;
        }
        Ok(running)
    }

    /// Starts the container's init. The answer to Wait may come first and is kept.
    fn start_init(&mut self) -> Result<()> {
        let ticket = self.link.send(TASK, "Start", &start_request(&self.id, &self.exec_id))?;
        loop {
            let answer = self.link.receive()?;
            if answer.ticket == ticket {
                return answer.parse::<StartResponse>("start failed").map(|_| ());
            }
            self.answered(answer);
        }
    }

    fn carry(&mut self) -> u8 {
        // What came together with the answer to Start has been read: the socket will not tell of it again.
        if let Err(e) = self.take_answers() {
            self.lost(&e);
        }
        loop {
            if self.code.is_some() && self.flows[self.inputs..].iter().all(Flow::over) {
                break;
            }
            match self.turn() {
                Ok(true) => {}
                // Ended, and nothing more for a while: somebody else holds the streams open.
                Ok(false) => break,
                Err(e) => {
                    self.lost(&e);
                    break;
                }
            }
        }
        if !self.exec_id.is_empty() {
            forget(&mut self.link, &self.id, &self.exec_id);
        } else if self.code == Some(LOST)
            && let Some(reason) = self.reason()
        {
            log::error!("container {} is lost: {reason}", self.id);
        }
        self.code.unwrap_or(LOST)
    }

    /// Waits for something and handles it; false when the process has ended and its output has been silent for a while.
    fn turn(&mut self) -> Result<bool> {
        let ended = self.code.is_some();
        if ended {
            // There are none any more, and the monitor is not heard.
            self.procfs = None;
        }
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !ended {
            fds.push(PollFd::new(self.link.as_fd(), PollFlags::POLLIN));
        }
        let looked = self.procfs.iter().flat_map(Procfs::fds);
        fds.extend(looked.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let lookers = fds.len() - if ended { 1 } else { 2 };
        let mut places = Vec::new();
        let skip = if ended { self.inputs } else { 0 };
        for (index, flow) in self
            .flows
            .iter()
            .enumerate()
            .skip(skip)
            .filter(|(_, flow)| !flow.over())
        {
            let [from, to] = flow.poll();
            fds.push(to);
            if flow.reads() {
                fds.push(from);
            }
            places.push((index, flow.reads()));
        }
        let silent = self.flows[self.inputs..].iter().all(|flow| flow.over() || flow.empty());
        let patience = match (ended && silent, self.exec_id.is_empty()) {
            (false, _) => self.patience(),
            // What shares a container's pids may outlive its init and hold its streams; Podman waits 5 s for the end of what it killed.
            (true, true) => PollTimeout::from(3000_u16),
            (true, false) => PollTimeout::from(1000_u16),
        };
        match poll(&mut fds, patience) {
            Ok(0) if ended => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(true),
            Err(e) => return Err(e).attempt(|| "poll".into()),
        }
        let events: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        let mut events = events.into_iter();
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        let signalled = !next().is_empty();
        let answered = !ended && !next().is_empty();
        let looked: Vec<bool> = (0..lookers).map(|_| !next().is_empty()).collect();
        for (index, reads) in places {
            let to = next();
            let from = if reads { next() } else { PollFlags::empty() };
            self.flows[index].step(from, to);
        }
        if signalled {
            self.signalled();
        }
        if answered {
            self.link.fill()?;
            self.take_answers()?;
        }
        if let Some(procfs) = &mut self.procfs {
            procfs.serve(&looked, &mut self.link);
            procfs.expire();
        }
        Ok(true)
    }

    /// How long nothing may happen while the process runs.
    fn patience(&self) -> PollTimeout {
        let Some(due) = self.procfs.as_ref().and_then(Procfs::due) else {
            return PollTimeout::NONE;
        };
        let left = due.saturating_duration_since(Instant::now()).as_millis();
        PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX)
    }

    fn take_answers(&mut self) -> Result<()> {
        while let Some(answer) = self.link.take()? {
            self.answered(answer);
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) {
        let Some(answer) = (match &mut self.procfs {
            Some(procfs) => procfs.answered(answer, &mut self.link),
            None => Some(answer),
        }) else {
            return;
        };
        if answer.ticket != self.wait {
            if let Err(e) = answer.parse::<api::task::api::Empty>("forward to the container") {
                log::debug!("{}", e.chain());
            }
            return;
        }
        match answer.parse::<WaitResponse>("wait for the process") {
            Ok(response) => {
                log::debug!("{}: exit status {}", self.id, response.exit_status);
                self.code = Some(u8::try_from(response.exit_status).unwrap_or(u8::MAX));
            }
            Err(e) => self.lost(&e),
        }
    }

    /// Why the init ended, when that was not its own doing.
    fn reason(&mut self) -> Option<String> {
        let answer = self
            .link
            .call::<InspectResponse>(MONITOR, "Inspect", &InspectRequest::new());
        let saved: Saved = serde_json::from_slice(&answer.ok()?.json).ok()?;
        saved.containers.get(&self.id)?.exit.as_ref()?.reason.clone()
    }

    fn lost(&mut self, error: &Error) {
        if self.code.is_none() {
            log::error!("container {} is lost: {}", self.id, error.chain());
        }
        self.code = Some(self.code.unwrap_or(LOST));
    }

    fn signalled(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGWINCH => self.resize(),
                // A writer of ours learns it from the call; the others come from using our own terminal.
                libc::SIGPIPE | libc::SIGTTIN | libc::SIGTTOU => {}
                signal => {
                    let request = KillRequest {
                        id: self.id.clone(),
                        exec_id: self.exec_id.clone(),
                        signal: u32::try_from(signal).unwrap_or_default(),
                        ..KillRequest::default()
                    };
                    // A monitor that has gone is noticed where its answers are read.
                    let _ = self.link.send(TASK, "Kill", &request);
                }
            }
        }
    }

    fn resize(&mut self) {
        let Some(size) = self.window.as_ref().and_then(|window| terminal::size(window.as_fd())) else {
            return;
        };
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            width: u32::from(size.columns),
            height: u32::from(size.rows),
            ..ResizePtyRequest::default()
        };
        let _ = self.link.send(TASK, "ResizePty", &request);
    }
}

/// A process that joined leaves nothing behind; the init stays for `state` until the container is deleted.
fn forget(link: &mut Link, id: &str, exec_id: &str) {
    let request = DeleteRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..DeleteRequest::default()
    };
    if let Err(e) = link.call::<DeleteResponse>(TASK, "Delete", &request) {
        log::debug!("{}", e.chain());
    }
}

fn start_request(id: &str, exec_id: &str) -> StartRequest {
    StartRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..StartRequest::default()
    }
}

/// A terminal's one stream as two flows: input first.
fn both_ways(stream: UnixStream, input: OwnedFd, output: OwnedFd) -> Result<Vec<Flow>> {
    let back = stream.try_clone().attempt(|| "duplicate the stream".into())?;
    Ok(vec![
        Flow::new(input, stream.into(), false),
        Flow::new(back.into(), output, false),
    ])
}

#[cfg(test)]
#[path = "carry_test.rs"]
mod tests;
