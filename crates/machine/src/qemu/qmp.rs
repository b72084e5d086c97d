// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! QEMU's control protocol: one JSON object per line; the server greets, then answers commands by id and throws events in
//! between. QEMU may have been taken over by its guest: lines are bounded, waits end, and nothing that it says is believed to
//! be well formed.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest line that is read, in bytes; QEMU's own answers to our commands have some hundred.
pub const LINE_MAX: usize = 64 * 1024;

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line.
    Greeting,
    /// What a command returned.
    Return {
        /// The command's id, where it is one of ours.
        id: Option<u64>,
        /// What it returned.
        value: Value,
    },
    /// Why a command failed.
    Failure {
        /// The command's id, where it is one of ours.
        id: Option<u64>,
        /// QEMU's words.
        why: String,
    },
    /// Something happened in the machine.
    Event(String),
}

/// Reads one line. Errors: `Guest` when it is none of the messages of the protocol.
pub fn parse(line: &[u8]) -> Result<Message> {
    let nonsense = || "understand QEMU's control channel".to_owned();
    let value: Value = serde_json::from_slice(line).context(Kind::Guest, nonsense)?;
    let id = value.get("id").and_then(Value::as_u64);
    let text = |value: &Value| value.as_str().map(|text| crate::tail::printable(text.as_bytes(), 1));
    if value.get("QMP").is_some() {
        Ok(Message::Greeting)
    } else if let Some(value) = value.get("return") {
        let value = value.clone();
        Ok(Message::Return { id, value })
    } else if let Some(error) = value.get("error") {
        let why = error
            .get("desc")
            .and_then(text)
            .unwrap_or_else(|| "no reason given".into());
        Ok(Message::Failure { id, why })
    } else if let Some(name) = value.get("event").and_then(text) {
        Ok(Message::Event(name))
    } else {
        Err(Error::new(Kind::Guest, nonsense()))
    }
}

/// A connection on which commands are given, one at a time.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    next_id: u64,
    /// How long an answer may take, on a host that is busy emulating.
    patience: Duration,
}

impl Qmp {
    /// Waits for the greeting and leaves the negotiation. Errors: `Gone` when QEMU ends before, `Timeout`, `Guest`.
    pub async fn greet(stream: UnixStream, patience: Duration) -> Result<Qmp> {
        let mut qmp = Qmp {
            stream,
            received: Vec::new(),
            next_id: 1,
            patience,
        };
        let greeting = timeout(patience, qmp.message()).await;
        match greeting.context(Kind::Timeout, || "wait for QEMU's greeting".into())?? {
            Message::Greeting => {}
            other => return Err(Error::new(Kind::Guest, format!("QEMU greets with {other:?}"))),
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Gives a command and waits for its answer. Errors: `State` with QEMU's words when it refuses, `Gone`, `Timeout`,
    /// `Guest`.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = timeout(self.patience, self.exchange(command, arguments)).await;
        answer
            .context(Kind::Timeout, || format!("wait for QEMU's answer to {command}"))?
            .attempt(|| format!("QEMU command {command}"))
    }

    /// Gives QEMU a descriptor, by which name later commands know it.
    pub async fn give(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        self.hand_over(descriptor, "getfd", json!({ "fdname": name }))
            .await
            .attempt(|| format!("give QEMU the descriptor {name}"))
    }

    /// Gives QEMU a descriptor, which it opens as `/dev/fdset/<set>`.
    pub async fn lend(&mut self, set: u64, descriptor: BorrowedFd<'_>) -> Result<()> {
        self.hand_over(descriptor, "add-fd", json!({ "fdset-id": set }))
            .await
            .attempt(|| format!("give QEMU the descriptor /dev/fdset/{set}"))
    }

    async fn hand_over(&mut self, descriptor: BorrowedFd<'_>, command: &str, arguments: Value) -> Result<()> {
        // It belongs to the first command behind it: an empty line is none.
        let descriptors = [descriptor.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let bytes = [IoSlice::new(b"\n")];
            let sent = sendmsg::<()>(self.stream.as_raw_fd(), &bytes, &message, MsgFlags::MSG_NOSIGNAL, None);
            sent.map_err(Into::into)
        });
        sent.await
            .context(Kind::Gone, || "write to QEMU's control channel".into())?;
        self.execute(command, arguments).await.map(drop)
    }

    async fn exchange(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let ours = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": ours }).to_string();
        line.push('\n');
        let written = self.stream.write_all(line.as_bytes()).await;
        written.context(Kind::Gone, || "write to QEMU's control channel".into())?;
        loop {
            match self.message().await? {
                Message::Return { id, value } if id == Some(ours) => return Ok(value),
                // An error about a line that QEMU could not read has no id.
                Message::Failure { id, why } if id.is_none_or(|id| id == ours) => {
                    return Err(Error::new(Kind::State, why));
                }
                Message::Event(name) => log::debug!("qemu event {name}"),
                // Late answers to commands that were given up.
                Message::Greeting | Message::Return { .. } | Message::Failure { .. } => {}
            }
        }
    }

    /// The next line. May be dropped at an await without loss.
    async fn message(&mut self) -> Result<Message> {
        let what = || "read QEMU's control channel".to_owned();
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return parse(&line);
            }
            if self.received.len() >= LINE_MAX {
                return Err(Error::new(
                    Kind::Guest,
                    "QEMU's control channel sends a line without end",
                ));
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if read.context(Kind::Gone, what)? == 0 {
                return Err(Error::new(Kind::Gone, "QEMU closed its control channel"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;

    #[test]
    fn each_kind_of_line_is_told_apart() {
        assert_eq!(parse(GREETING.as_bytes()).unwrap(), Message::Greeting);
        let value = json!({ "status": "running" });
        let line = br#"{"return": {"status": "running"}, "id": 3}"#;
        assert_eq!(parse(line).unwrap(), Message::Return { id: Some(3), value });
        let line = br#"{"id": 3, "error": {"class": "GenericError", "desc": "no \u001b[2Jsuch"}}"#;
        let why = "no such".to_owned();
        assert_eq!(parse(line).unwrap(), Message::Failure { id: Some(3), why });
        let line = br#"{"timestamp": {"seconds": 1}, "event": "STOP"}"#;
        assert_eq!(parse(line).unwrap(), Message::Event("STOP".into()));
        for bad in [&b""[..], b"{}", b"[]", b"7", b"{\"event\": 3}", b"\xff"] {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::Guest);
        }
    }

    /// Plays QEMU: greets, then answers each line that comes with the next of `answers`.
    async fn server(stream: UnixStream, answers: &[&str]) {
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
        for answer in answers {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_are_matched_by_id_between_events() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let first = "{\"return\": {}, \"id\": 1}\n";
        let stop = "{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 1}\n{\"return\": {\"a\": 1}, \"id\": 2}\n";
        let refusal = "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n";
        let client = async {
            let mut qmp = Qmp::greet(ours, Duration::from_secs(30)).await.unwrap();
            assert_eq!(qmp.execute("stop", json!({})).await.unwrap(), json!({ "a": 1 }));
            let refused = qmp.execute("cont", json!({})).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::State);
            assert_eq!(refused.chain(), "QEMU command cont: not now");
            assert_eq!(qmp.execute("cont", json!({})).await.unwrap_err().kind(), Kind::Gone);
        };
        let answers = [first, stop, refusal];
        tokio::join!(server(theirs, &answers), client);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_without_end_is_not_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let flood = async {
            let mut theirs = theirs;
            while theirs.write_all(&[b'x'; 4096]).await.is_ok() {}
        };
        let client = async { Qmp::greet(ours, Duration::from_secs(30)).await.unwrap_err() };
        let (_, error) = tokio::join!(flood, client);
        assert_eq!(error.kind(), Kind::Guest);
    }
}
