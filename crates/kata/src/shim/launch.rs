// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Starts `kata shim` and waits until it is ready. Until it is released, the guard kills it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base::{Context, Error, Kind, Result};
use log::LevelFilter;
use nix::fcntl::OFlag;

use super::arguments::Arguments;
use super::guise;
use super::pids::Pids;
use super::stream::Streams;
use super::terminal::Size;
use crate::berth;
use crate::link::Link;

/// What a ready shim writes.
pub const READY: &[u8] = b"ready";

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// `None`: standard error.
    pub file: Option<PathBuf>,
    /// JSON instead of text.
    pub json: bool,
    /// Also what only developers read.
    pub debug: bool,
}

impl Log {
    /// As the arguments that our roles take.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Some(file) = &self.file {
            let mut word = OsString::from("--log=");
            word.push(file);
            words.push(word);
        }
        if self.json {
            words.push("--log-format=json".into());
        }
        if self.debug {
            words.push("--debug=true".into());
        }
        words
    }

    /// Starts logging as `component`.
    pub fn start(&self, component: &str) -> Result<()> {
        let format = if self.json {
            base::log::Format::Json
        } else {
            base::log::Format::Text
        };
        // Standard error is often the container's, too: no chatter there.
        let level = match (self.debug, &self.file) {
            (true, _) => LevelFilter::Debug,
            (false, Some(_)) => LevelFilter::Info,
            (false, None) => LevelFilter::Warn,
        };
        base::log::start(component, self.file.as_deref(), format, level)
    }
}

/// A shim to be started. Its standard streams are those of the caller, unless told otherwise.
#[derive(Debug)]
pub struct Launch {
    /// Of the container, absolute.
    pub dir: PathBuf,
    /// Container.
    pub id: String,
    /// Process in it, which the shim starts; empty for the container's init.
    pub exec_id: String,
    /// What that process runs.
    pub command: Vec<String>,
    /// Where the shim counts among processes.
    pub pids: Pids,
    /// The process has a terminal.
    pub terminal: bool,
    /// An engine wants the terminal over this socket.
    pub console: Option<PathBuf>,
    /// What that terminal measures at first.
    pub size: Option<Size>,
    /// Where the shim logs.
    pub log: Log,
    /// The porcelain's directory of the container, which is told of the end.
    pub record: Option<PathBuf>,
    /// Standard input, output and error in place of the caller's, whose terminal is none of its business then; `None` for a stream
    /// that the process does not have.
    pub stdio: Option<[Option<OwnedFd>; 3]>,
}

/// A shim that is ready; killed on drop unless released.
#[derive(Debug)]
pub struct Shim {
    child: Child,
    armed: bool,
}

impl Shim {
    /// Its host pid, which stands for the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it to live on its own.
    pub fn release(mut self) {
        self.armed = false;
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Launch {
    /// Starts it; returns once its streams are connected (and, for a process that joins, that one runs). Errors: what the shim
    /// met, with its kind.
    pub fn start(self) -> Result<Shim> {
        let what = || format!("start the shim of {}", self.id);
        let (mut ready, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map(|(reader, writer)| (File::from(reader), writer))
            .attempt(what)?;
        // The shim may be where it does not see the monitor.
        let monitor = monitor(&self.dir).attempt(what)?;
        let elsewhere = self.console.is_some();
        let console = self.console.map(std::path::absolute).transpose().attempt(what)?;
        let mut log = self.log;
        log.file = log.file.map(std::path::absolute).transpose().attempt(what)?;
        let arguments = Arguments {
            dir: self.dir,
            id: self.id.clone(),
            exec_id: self.exec_id,
            terminal: self.terminal,
            console,
            size: self.size,
            record: self.record,
            streams: self
                .stdio
                .as_ref()
                .map_or(Streams::ALL, |stdio| Streams(stdio.each_ref().map(Option::is_some))),
            ready: told.as_raw_fd(),
            monitor: monitor.as_raw_fd(),
            log,
        };
        let mut command = Command::new("/proc/self/exe");
        // Lists of processes show the one that it stands for.
        let mut shown = guise::words(&self.command).into_iter();
        command.arg0(shown.next().unwrap_or_default()).args(shown);
        command.envs(arguments.write());
        if let Some(stdio) = self.stdio {
            let [input, output, error] = stdio.map(|stream| stream.map_or_else(Stdio::null, Stdio::from));
            command.stdin(input).stdout(output).stderr(error).process_group(0);
        } else if elsewhere {
            // The process has its streams on the console; ours are the engine's, who waits for their end.
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        let passed = [told.as_fd(), monitor.as_fd()];
        let child = self.pids.around(|| base::inherited::spawn(&mut command, &passed));
        let child = child.attempt(what)?.attempt(what)?;
        let shim = Shim { child, armed: true };
        drop(told);
        let mut answer = String::new();
        ready.read_to_string(&mut answer).attempt(what)?;
        if answer.as_bytes() == READY {
            return Ok(shim);
        }
        Err(parse_refusal(&answer).unwrap_or_else(|| Error::new(Kind::Gone, what()).because("the shim ended at once")))
    }
}

/// `/proc/<pid>` of the monitor that has the container in `dir`.
fn monitor(dir: &Path) -> Result<File> {
    let path = format!("/proc/{}", Link::open(&berth::sandbox(dir))?.monitor()?);
    File::open(&path).attempt(|| format!("open {path}"))
}

const KINDS: [(Kind, &str); 11] = [
    (Kind::NotFound, "not-found"),
    (Kind::Exists, "exists"),
    (Kind::Invalid, "invalid"),
    (Kind::State, "state"),
    (Kind::Unsupported, "unsupported"),
    (Kind::Timeout, "timeout"),
    (Kind::Gone, "gone"),
    (Kind::Denied, "denied"),
    (Kind::Guest, "guest"),
    (Kind::Io, "io"),
    (Kind::Bug, "bug"),
];

/// An error as `kind: chain`.
pub fn refusal(error: &Error) -> String {
    let name = KINDS.iter().find(|(kind, _)| *kind == error.kind());
    let name = name.map_or("io", |(_, name)| name);
    format!("{name}: {}", error.chain())
}

/// What [`refusal`] wrote.
pub fn parse_refusal(text: &str) -> Option<Error> {
    let (name, chain) = text.split_once(": ")?;
    let (kind, _) = KINDS.iter().find(|(_, known)| *known == name)?;
    Some(Error::new(*kind, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_kind() {
        for (kind, _) in KINDS {
            let error = Error::new(kind, "dial").because("a: b");
            let got = parse_refusal(&refusal(&error)).unwrap();
            assert_eq!((got.kind(), got.chain().as_str()), (kind, "dial: a: b"));
        }
        assert!(parse_refusal("").is_none());
        assert!(parse_refusal("panicked at x").is_none());
    }
}
