// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The socket between the agent and its helper: whole messages (SOCK_SEQPACKET), each with descriptors.
//!
//! ```text
//!     agent                                helper                        container's process
//!       ── Prepare{shape} ───────────────►
//!       ◄── Forked{pid} ──────────────────  (ends; only if the shape has early namespaces)
//!       ◄── Ready ──────────────────────────────────────────────────────  (only if it is made ahead)
//!       ── Request{length}, streams ────►  or to the process, if it is there
//!       ── the request, in pieces ──────►
//!       ◄── Warning* ─────────────────────
//!       ◄── Forked{pid} ──────────────────  (ends; unless that was before)
//!       ◄── Warning*, Ready, console ──────────────────────────────────
//!       ── Go ────────────────────────────────────────────────────────►  (exec closes the socket)
//! ```
//!
//! `Failed` may come instead of any message from the right, and ends the talk. End of file from the left
//! means that nobody wants the process any more; from the right after `Go`, that it runs.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use base::{Context, Error, Kind, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::nest::Shape;
use crate::sys;

/// No message is longer; error texts are cut.
const LONGEST: usize = 16 << 10;
/// Bytes of a request that are sent at once: the kernel finds room for so many in one place.
const PIECE: usize = 12 << 10;
/// All namespaces but those of mounts and of the network, and three streams.
const MOST_FDS: usize = 9;

/// What is said, in both directions.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Message {
    /// Agent: where the process will be.
    Prepare(Shape),
    /// Agent: a request of so many bytes follows, see [`Channel::take`]. The namespaces that are joined are in the first descriptors,
    /// the streams (if no terminal is asked for) in the last.
    Request(usize),
    /// Helper: something was not done as asked; to be logged.
    Warning(String),
    /// Helper: the process exists, by its pid in the agent's namespace.
    Forked(i32),
    /// Process: all that can be made ahead is there. Or everything is in place; the pty's master comes along if there is a terminal.
    Ready,
    /// Agent: execute the program.
    Go,
    /// Helper or process: it failed; a kind (see [`code`]) and the chain of causes.
    Failed(u8, String),
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends, close-on-exec.
    pub fn pair() -> Result<(Channel, Channel)> {
        let ends = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = ends.attempt(|| "make a socket pair".into())?;
        Ok((Channel(ours), Channel(theirs)))
    }

    /// Sends one message. Errors: `Gone` when nobody is at the other end.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(message).context(Kind::Bug, || "encode a message".into())?;
        self.put(&bytes, fds)
    }

    /// Sends the bytes of a [`Message::Request`]. Not in a file: a socket is at hand, and an emulated guest has translated its code.
    pub fn give(&self, bytes: &[u8]) -> Result<()> {
        bytes.chunks(PIECE).try_for_each(|piece| self.put(piece, &[]))
    }

    fn put(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let sent = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        let what = || "send a message".to_owned();
        match sent {
            Err(nix::Error::EPIPE) => sent.context(Kind::Gone, what).map(drop),
            other => other.attempt(what).map(drop),
        }
    }

    /// The next message with its descriptors; none at the end.
    pub fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; LONGEST];
        let (length, fds) = self.get(&mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[..length]).context(Kind::Bug, || "decode a message".into())?;
        Ok(Some((message, fds)))
    }

    /// As many bytes as a [`Message::Request`] has announced; none when the other end has gone before.
    pub fn take(&self, length: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; length];
        let mut taken = 0;
        while taken < length {
            match self.get(&mut bytes[taken..])? {
                (0, _) => return Ok(None),
                (piece, _) => taken += piece,
            }
        }
        Ok(Some(bytes))
    }

    /// The next message's length, none at the end, and its descriptors.
    fn get(&self, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
        let mut space = nix::cmsg_space!([libc::c_int; MOST_FDS]);
        let mut slices = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let what = || "receive a message".to_owned();
        loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                Err(nix::Error::EINTR) => {}
                // The other end closed with our message unread.
                Err(nix::Error::ECONNRESET) => return Ok((0, vec![])),
                Err(e) => return Err(e).attempt(what),
                Ok(received) => {
                    let mut fds = vec![];
                    for control in received.cmsgs().attempt(what)? {
                        if let ControlMessageOwned::ScmRights(raw) = control {
                            fds.extend(raw.into_iter().map(sys::adopt));
                        }
                    }
                    return Ok((received.bytes, fds));
                }
            }
        }
    }

    /// Says that it failed; nobody is left to be told when that fails too.
    pub fn fail(&self, error: &Error) {
        let mut text = error.chain();
        let mut cut = text.len().min(LONGEST / 8);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        text.truncate(cut);
        let _ = self.send(&Message::Failed(code(error.kind()), text), &[]);
    }

    /// Says that something was not done as asked.
    pub fn warn(&self, text: impl Into<String>) {
        let _ = self.send(&Message::Warning(text.into()), &[]);
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Channel {
        Channel(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

const KINDS: [Kind; 11] = [
    Kind::NotFound,
    Kind::Exists,
    Kind::Invalid,
    Kind::State,
    Kind::Unsupported,
    Kind::Timeout,
    Kind::Gone,
    Kind::Denied,
    Kind::Guest,
    Kind::Io,
    Kind::Bug,
];

fn code(kind: Kind) -> u8 {
    let place = KINDS.iter().position(|known| *known == kind);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

/// The kind behind a code of [`Message::Failed`].
pub fn kind(code: u8) -> Kind {
    KINDS.get(usize::from(code)).copied().unwrap_or(Kind::Bug)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        a.warn("one");
        a.send(&Message::Ready, &[write.as_fd()]).unwrap();
        drop((a, write));
        assert_eq!(b.receive().unwrap().unwrap().0, Message::Warning("one".into()));
        let (message, mut fds) = b.receive().unwrap().unwrap();
        assert_eq!((message, fds.len()), (Message::Ready, 1));
        std::fs::File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        { read }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn a_request_of_any_length_comes_whole_or_not_at_all() {
        for length in [0, 1, PIECE, 40 * PIECE + 1] {
            let (a, b) = Channel::pair().unwrap();
            let sent: Vec<u8> = (0u8..251).cycle().take(length).collect();
            let expected = sent.clone();
            let sending = std::thread::spawn(move || {
                a.give(&sent).unwrap();
                a.warn("after");
            });
            assert_eq!(b.take(length).unwrap().unwrap(), expected);
            assert_eq!(b.receive().unwrap().unwrap().0, Message::Warning("after".into()));
            sending.join().unwrap();
            assert_eq!(b.take(1).unwrap(), None);
        }
        let (a, b) = Channel::pair().unwrap();
        a.give(&[7; PIECE]).unwrap();
        drop(a);
        assert_eq!(b.take(PIECE + 1).unwrap(), None);
        // Nobody takes it: no more than the socket holds is sent, and that is an error.
        let (a, b) = Channel::pair().unwrap();
        let sending = std::thread::spawn(move || a.give(&vec![7; 100 * PIECE]).unwrap_err());
        b.take(1 + PIECE).unwrap();
        drop(b);
        sending.join().unwrap();
    }

    #[test]
    fn failures_keep_their_kind_and_are_cut_on_a_character() {
        let (a, b) = Channel::pair().unwrap();
        for of in KINDS {
            a.fail(&Error::new(of, "é".repeat(LONGEST)));
            let Some((Message::Failed(code, text), _)) = b.receive().unwrap() else {
                panic!("no failure")
            };
            assert_eq!(kind(code), of);
            assert!(text.len() <= LONGEST / 8 && text.ends_with('é'));
        }
        assert_eq!(kind(200), Kind::Bug);
    }
}
