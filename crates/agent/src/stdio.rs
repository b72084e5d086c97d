// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The agent's ends of a process's standard streams, from the process's creation until somebody claims them. It does not know who
//! that is.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use api::agent;
use base::{Context, Error, Kind, Result};
use nix::fcntl::{FcntlArg, fcntl};

use crate::lock::lock;

/// What a pipe holds before its writer waits: more, and a writer is woken less often.
const PIPE: libc::c_int = 256 << 10;

/// Our end of one stream.
#[derive(Debug)]
pub enum End {
    /// The process reads what is written here.
    Input(OwnedFd),
    /// What the process writes comes out here.
    Output(OwnedFd),
    /// Master of the process's terminal.
    Terminal(Arc<OwnedFd>),
}

#[derive(Debug)]
enum Slot {
    Absent,
    Waiting(End),
    Claimed,
}

impl From<Option<End>> for Slot {
    fn from(end: Option<End>) -> Slot {
        end.map_or(Slot::Absent, Slot::Waiting)
    }
}

/// Streams 0, 1 and 2.
#[derive(Debug)]
pub struct Stdio([Option<End>; 3]);

/// As [`Stdio`], each to be claimed once.
#[derive(Debug)]
pub struct Claims(Mutex<[Slot; 3]>);

impl Stdio {
    /// Pipes for the streams that are wanted; with a terminal, nothing yet: it is made with the process.
    pub fn make(wanted: &agent::Stdio, terminal: bool) -> Result<(guest::Stdio, Stdio)> {
        if terminal {
            return Ok((guest::Stdio::Terminal, Stdio([None, None, None])));
        }
        let what = || "make a pipe".to_owned();
        let (mut ours, mut theirs) = ([None, None, None], [None, None, None]);
        for (fd, wanted) in [wanted.stdin, wanted.stdout, wanted.stderr].into_iter().enumerate() {
            if !wanted {
                continue;
            }
            let (reader, writer) = std::io::pipe().attempt(what)?;
            // The default does as well.
            let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE));
            let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
            (ours[fd], theirs[fd]) = if fd == 0 {
                (Some(End::Input(writer)), Some(reader))
            } else {
                (Some(End::Output(reader)), Some(writer))
            };
        }
        let [stdin, stdout, stderr] = theirs;
        Ok((guest::Stdio::Streams { stdin, stdout, stderr }, Stdio(ours)))
    }

    /// With the terminal that was made, if one was.
    pub fn claims(self, console: Option<&Arc<OwnedFd>>) -> Claims {
        let Stdio([stdin, stdout, stderr]) = self;
        let first = console.map(|master| End::Terminal(Arc::clone(master))).or(stdin);
        Claims(Mutex::new([first.into(), stdout.into(), stderr.into()]))
    }
}

impl Claims {
    /// Hands out a stream. Errors: `NotFound` when it does not exist, `State` the second time.
    pub fn claim(&self, fd: u8) -> Result<End> {
        let fail = |kind, why: &str| Err(Error::new(kind, format!("stream {fd} {why}")));
        let mut slots = lock(&self.0);
        let Some(slot) = slots.get_mut(usize::from(fd)) else {
            return fail(Kind::NotFound, "does not exist");
        };
        match std::mem::replace(slot, Slot::Claimed) {
            Slot::Waiting(end) => Ok(end),
            Slot::Claimed => fail(Kind::State, "is in use"),
            Slot::Absent => {
                *slot = Slot::Absent;
                fail(Kind::NotFound, "was not asked for")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(stdin: bool, stdout: bool, stderr: bool) -> agent::Stdio {
        agent::Stdio {
            stdin,
            stdout,
            stderr,
            ..agent::Stdio::default()
        }
    }

    #[test]
    fn each_stream_is_claimed_once_and_only_if_it_was_asked_for() {
        let (theirs, ours) = Stdio::make(&wanted(true, false, true), false).unwrap();
        let guest::Stdio::Streams { stdin, stdout, stderr } = theirs else {
            panic!("no terminal was asked for")
        };
        assert!(stdin.is_some() && stdout.is_none() && stderr.is_some());
        let claims = ours.claims(None);
        assert!(matches!(claims.claim(0).unwrap(), End::Input(_)));
        assert!(matches!(claims.claim(2).unwrap(), End::Output(_)));
        assert_eq!(claims.claim(0).unwrap_err().kind(), Kind::State);
        for absent in [1, 3] {
            assert_eq!(claims.claim(absent).unwrap_err().kind(), Kind::NotFound);
            assert_eq!(claims.claim(absent).unwrap_err().kind(), Kind::NotFound);
        }
    }

    #[test]
    fn a_terminal_is_stream_0() {
        let (theirs, ours) = Stdio::make(&wanted(true, true, true), true).unwrap();
        assert!(matches!(theirs, guest::Stdio::Terminal));
        let master = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let claims = ours.claims(Some(&master));
        assert!(matches!(claims.claim(0).unwrap(), End::Terminal(_)));
        assert_eq!(claims.claim(1).unwrap_err().kind(), Kind::NotFound);
    }
}
