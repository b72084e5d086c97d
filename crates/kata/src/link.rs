// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A connection to a sandbox's monitor for programs of one thread: ttrpc requests go out one by one, answers are taken as they come.
//!
//! ```text
//! length:u32be stream:u32be type:u8 flags:u8 | protobuf
//! ```
//!
//! It knows the framing and the names of the two services, not what their methods do. The answers come from our own monitor; their
//! length is bounded all the same.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use protobuf::Message;
use ttrpc::proto::{MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, Request, Response};

/// containerd's Task service.
pub const TASK: &str = "containerd.task.v2.Task";
/// Ours.
pub const MONITOR: &str = "kata.monitor.v1.Monitor";

const HEADER: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
    /// Of the next request; clients use odd numbers.
    next: u32,
    /// Bytes of an answer that has not come whole yet.
    partial: Vec<u8>,
}

/// Which request an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// An answer: the response's bytes or the error that the monitor gave.
#[derive(Debug)]
pub struct Answer {
    /// Of the request.
    pub ticket: Ticket,
    /// See [`Answer::into`].
    outcome: Result<Vec<u8>, ttrpc::Error>,
}

impl Answer {
    /// The response. Errors: what the monitor said, with its kind; `what` says what was asked for.
    pub fn parse<R: Message>(self, what: &str) -> Result<R> {
        let bytes = self.outcome.map_err(|e| api::kind::error(what, e))?;
        R::parse_from_bytes(&bytes).context(Kind::Bug, || format!("{what}: parse the answer"))
    }
}

impl Link {
    /// Connects to the monitor of the sandbox in `dir`. Errors: `NotFound` or `Io` when there is none.
    pub fn open(dir: &Path) -> Result<Link> {
        base::socket::connect(&dir.join("monitor.sock")).map(Link::over)
    }

    /// Speaks over a connected socket.
    pub fn over(socket: UnixStream) -> Link {
        Link {
            socket,
            next: 1,
            partial: Vec::new(),
        }
    }

    /// The monitor's process.
    pub fn monitor(&self) -> Result<i32> {
        let peer = getsockopt(&self.socket, PeerCredentials);
        Ok(peer.attempt(|| "ask who the monitor is".into())?.pid())
    }

    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, service: &str, method: &str, request: &impl Message) -> Result<Ticket> {
        let what = || format!("ask the monitor for {method}");
        let mut frame = Request::new();
        frame.service = service.to_owned();
        frame.method = method.to_owned();
        frame.payload = request.write_to_bytes().context(Kind::Bug, what)?;
        let body = frame.write_to_bytes().context(Kind::Bug, what)?;
        let len = u32::try_from(body.len())
            .ok()
            .filter(|len| usize::try_from(*len).is_ok_and(|len| len <= MESSAGE_LENGTH_MAX))
            .ok_or_else(|| {
                Error::new(Kind::Invalid, "request is too long").because(Error::new(Kind::Invalid, what()))
            })?;
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(2);
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&ticket.0.to_be_bytes());
        bytes.extend_from_slice(&[MESSAGE_TYPE_REQUEST, 0]);
        bytes.extend_from_slice(&body);
        self.socket.write_all(&bytes).context(Kind::Gone, what)?;
        Ok(ticket)
    }

    /// Waits for the next answer, whichever it is. Errors: `Gone` when the monitor has ended.
    pub fn receive(&mut self) -> Result<Answer> {
        loop {
            if let Some(answer) = self.take()? {
                return Ok(answer);
            }
            self.fill()?;
        }
    }

    /// As [`Link::receive`]; none when nothing has come within `limit`.
    pub fn receive_within(&mut self, limit: Duration) -> Result<Option<Answer>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(answer) = self.take()? {
                return Ok(Some(answer));
            }
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) => return Ok(None),
                Ok(_) => self.fill()?,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e).attempt(|| "wait for the monitor".into()),
            }
        }
    }

    /// Reads once (after the descriptor became readable); then [`Link::take`] until it has nothing more.
    pub fn fill(&mut self) -> Result<()> {
        let mut block = [0; 16 << 10];
        match self.socket.read(&mut block) {
            Ok(0) => Err(Error::new(Kind::Gone, "the monitor has ended")),
            Ok(n) => {
                self.partial.extend_from_slice(&block[..n]);
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(Error::new(Kind::Gone, "read from the monitor").because(e)),
        }
    }

    /// An answer that has come whole.
    pub fn take(&mut self) -> Result<Option<Answer>> {
        let Some((answer, used)) = parse(&self.partial)? else {
            return Ok(None);
        };
        self.partial.drain(..used);
        Ok(Some(answer))
    }

    /// Sends and waits; answers to other requests are dropped. Errors: the monitor's own, with its kind.
    pub fn call<R: Message>(&mut self, service: &str, method: &str, request: &impl Message) -> Result<R> {
        let ticket = self.send(service, method, request)?;
        loop {
            let answer = self.receive()?;
            if answer.ticket == ticket {
                return answer.parse(&format!("{} failed", method.to_lowercase()));
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first answer in `bytes` and its length, when it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_be_bytes([*l0, *l1, *l2, *l3])).unwrap_or(usize::MAX);
    if len > MESSAGE_LENGTH_MAX || *kind != MESSAGE_TYPE_RESPONSE {
        let what = format!("the monitor sent {len} bytes of type {kind}");
        return Err(Error::new(Kind::Bug, what));
    }
    let Some(body) = rest.get(..len) else {
        return Ok(None);
    };
    let response = Response::parse_from_bytes(body).context(Kind::Bug, || "parse the monitor's answer".into())?;
    let outcome = match response.status.into_option() {
        Some(status) if status.code() != Code::OK => Err(ttrpc::Error::RpcStatus(status)),
        _ => Ok(response.payload),
    };
    let ticket = Ticket(u32::from_be_bytes([*s0, *s1, *s2, *s3]));
    Ok(Some((Answer { ticket, outcome }, HEADER + len)))
}

#[cfg(test)]
pub mod stub {
    //! The other end of a [`Link`], for tests.

    use super::*;

    /// Reads one request: its stream, service, method and payload.
    pub fn request(socket: &mut UnixStream) -> Option<(u32, String, String, Vec<u8>)> {
        let mut header = [0; HEADER];
        socket.read_exact(&mut header).ok()?;
        let len = u32::from_be_bytes(header[..4].try_into().unwrap());
        let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let mut body = vec![0; usize::try_from(len).unwrap()];
        socket.read_exact(&mut body).ok()?;
        let request = Request::parse_from_bytes(&body).unwrap();
        Some((stream, request.service, request.method, request.payload))
    }

    /// Answers one.
    pub fn respond(socket: &mut UnixStream, stream: u32, outcome: Result<&dyn protobuf::MessageDyn, Error>) {
        let mut response = Response::new();
        match outcome {
            Ok(message) => {
                response.set_status(ttrpc::Status::new());
                response.payload = message.write_to_bytes_dyn().unwrap();
            }
            Err(error) => response.set_status(api::kind::status(&error)),
        }
        let body = response.write_to_bytes().unwrap();
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&[MESSAGE_TYPE_RESPONSE, 0]);
        bytes.extend_from_slice(&body);
        let _ = socket.write_all(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use api::task::api::{StateRequest, StateResponse, WaitRequest, WaitResponse};

    use super::*;

    #[test]
    fn answers_find_their_requests_and_errors_keep_their_kind() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let peer = std::thread::spawn(move || {
            let (wait, service, method, _) = stub::request(&mut theirs).unwrap();
            assert_eq!((service.as_str(), method.as_str()), (TASK, "Wait"));
            let (state, _, _, payload) = stub::request(&mut theirs).unwrap();
            assert_eq!(StateRequest::parse_from_bytes(&payload).unwrap().id, "c1");
            stub::respond(&mut theirs, state, Err(Error::new(Kind::NotFound, "no c1")));
            let (state, ..) = stub::request(&mut theirs).unwrap();
            let mut answer = StateResponse::new();
            answer.pid = 7;
            stub::respond(&mut theirs, state, Ok(&answer));
            stub::request(&mut theirs).unwrap();
            let mut answer = WaitResponse::new();
            answer.exit_status = 3;
            stub::respond(&mut theirs, wait, Ok(&answer));
        });
        let mut link = Link::over(ours);
        let wait = link.send(TASK, "Wait", &WaitRequest::new()).unwrap();
        let mut state = StateRequest::new();
        state.id = "c1".into();
        let error = link.call::<StateResponse>(TASK, "State", &state).unwrap_err();
        assert_eq!(
            (error.kind(), error.chain().as_str()),
            (Kind::NotFound, "state failed: no c1")
        );
        assert_eq!(link.call::<StateResponse>(TASK, "State", &state).unwrap().pid, 7);
        assert!(link.receive_within(Duration::from_millis(1)).unwrap().is_none());
        link.send(TASK, "Kill", &state).unwrap();
        let answer = link.receive_within(Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(answer.ticket, wait);
        assert_eq!(answer.parse::<WaitResponse>("wait").unwrap().exit_status, 3);
        peer.join().unwrap();
        assert_eq!(link.receive().unwrap_err().kind(), Kind::Gone);
    }

    #[test]
    fn nonsense_is_refused_and_parts_are_waited_for() {
        assert!(parse(&[0xff; 10]).is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 1, MESSAGE_TYPE_REQUEST, 0, 0]).is_err());
        for cut in 0..12 {
            let bytes = [0, 0, 0, 3, 0, 0, 0, 1, MESSAGE_TYPE_RESPONSE, 0, 0, 0];
            assert!(parse(&bytes[..cut]).unwrap().is_none(), "{cut}");
        }
    }
}
