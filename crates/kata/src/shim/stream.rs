// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Dials one standard stream of a process in the guest, through the sandbox's hybrid vsock socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use api::stream::{Hello, answer};
use base::{Context, Error, Kind, Result};

/// How long a guest may take to answer; emulated ones on a busy host are slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest line that the vsock device answers.
const LINE: usize = 64;

/// Which of input, output and error a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams(pub [bool; 3]);

impl Streams {
    /// As most have it.
    pub const ALL: Streams = Streams([true; 3]);

    /// Reads what `Display` wrote. Errors: `Invalid`.
    pub fn parse(text: &str) -> Result<Streams> {
        let mut streams = Streams([false; 3]);
        for digit in text.bytes() {
            let number = usize::from(digit.wrapping_sub(b'0'));
            let stream = streams.0.get_mut(number);
            *stream
                .ok_or_else(|| Error::new(Kind::Invalid, format!("streams {text:?} are not some of 0, 1 and 2")))? =
                true;
        }
        Ok(streams)
    }
}

impl Default for Streams {
    fn default() -> Streams {
        Streams::ALL
    }
}

impl std::fmt::Display for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers = self.0.iter().enumerate().filter(|(_, has)| **has);
        numbers
            .map(|(number, _)| number)
            .try_for_each(|number| write!(f, "{number}"))
    }
}

/// Opens the stream that `hello` names. The socket is blocking. Errors: `Guest` when the agent refuses.
pub fn dial(dir: &Path, hello: &Hello) -> Result<UnixStream> {
    let what = || format!("open stream {} of {}", hello.fd, hello.id);
    let mut socket = base::socket::connect(&dir.join("vsock.sock")).attempt(what)?;
    socket.set_read_timeout(Some(PATIENCE)).attempt(what)?;
    greet(&mut socket, hello).attempt(what)?;
    socket.set_read_timeout(None).attempt(what)?;
    Ok(socket)
}

fn greet(socket: &mut UnixStream, hello: &Hello) -> Result<()> {
    let port = api::port::STDIO;
    let lost = || format!("connect to port {port} of the guest");
    writeln!(socket, "CONNECT {port}").context(Kind::Gone, lost)?;
    let line = line(socket).context(Kind::Gone, lost)?;
    if !line.to_ascii_uppercase().starts_with("OK ") {
        return Err(Error::new(Kind::Gone, lost()).because(format!("the device answered {line:?}")));
    }
    let frame = hello.encode().context(Kind::Invalid, lost)?;
    socket.write_all(&frame).context(Kind::Gone, lost)?;
    match answer(socket).context(Kind::Gone, || "wait for the agent's answer".into())? {
        Ok(()) => Ok(()),
        Err(why) => Err(Error::new(Kind::Guest, "the agent refused").because(why)),
    }
}

/// Byte by byte: what follows the line belongs to the stream.
fn line(socket: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        socket.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if line.len() == LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
        }
        line.push(byte[0]);
    }
}

#[cfg(test)]
pub mod stub {
    //! A vsock device and an agent's stdio port in one, for tests.

    use std::os::unix::net::UnixListener;

    use super::*;

    /// Takes the next dialled stream.
    pub fn accept(listener: &UnixListener, refusal: Option<&str>) -> (Hello, UnixStream) {
        let (mut socket, _) = listener.accept().unwrap();
        assert_eq!(line(&mut socket).unwrap(), "CONNECT 1027");
        socket.write_all(b"OK 1073741824\n").unwrap();
        let hello = Hello::decode(&mut socket).unwrap();
        api::stream::put_answer(&mut socket, refusal.map_or(Ok(()), Err)).unwrap();
        (hello, socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            id: "c1".into(),
            exec_id: "e1".into(),
            fd: 1,
        }
    }

    #[test]
    fn a_stream_opens_or_the_agent_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let listener = base::socket::listen(&dir.path().join("vsock.sock")).unwrap();
        let guest = std::thread::spawn(move || {
            let (got, mut socket) = stub::accept(&listener, None);
            socket.write_all(b"data").unwrap();
            drop(socket);
            stub::accept(&listener, Some("no such process"));
            got
        });
        let mut text = String::new();
        dial(dir.path(), &hello()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "data");
        let error = dial(dir.path(), &hello()).unwrap_err();
        assert_eq!(error.kind(), Kind::Guest);
        assert!(
            error.chain().ends_with("the agent refused: no such process"),
            "{}",
            error.chain()
        );
        assert_eq!(guest.join().unwrap(), hello());
        drop(dir);
        assert_eq!(
            dial(Path::new("/no/such"), &hello()).unwrap_err().kind(),
            Kind::NotFound
        );
    }
}
