// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `kubectl exec`, `attach` and `port-forward` have with a CRI runtime: a WebSocket that carries several streams, each message
//! with its stream's number before it.

use std::collections::BTreeMap;
use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

use crate::{Outcome, command};

/// The numbers of a process's streams.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const SIZE: u8 = 4;

/// See the module.
#[derive(Debug)]
pub struct Streaming {
    socket: WebSocket<TcpStream>,
    /// What has come, by stream.
    received: BTreeMap<u8, Vec<u8>>,
}

impl Streaming {
    /// Over `connection` to where `url`, which the runtime has answered, points at.
    pub fn new(connection: TcpStream, url: &str) -> Streaming {
        let limit = connection.set_read_timeout(Some(command::deadline()));
        limit.expect("bound the time");
        let mut request = url.replacen("http", "ws", 1).into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("v4.channel.k8s.io");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let opened = tungstenite::client(request, connection);
        let (socket, _) = opened.unwrap_or_else(|e| panic!("{url}: {e}"));
        Streaming {
            socket,
            received: BTreeMap::new(),
        }
    }

    /// Sends to a stream.
    #[track_caller]
    pub fn send(&mut self, stream: u8, data: &[u8]) {
        let message = [&[stream], data].concat();
        self.socket.send(Message::binary(message)).expect("send");
    }

    /// Types at the process.
    #[track_caller]
    pub fn feed(&mut self, text: &str) {
        self.send(STDIN, text.as_bytes());
    }

    /// Makes its terminal another size.
    #[track_caller]
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = json!({ "Width": columns, "Height": rows });
        self.send(SIZE, size.to_string().as_bytes());
    }

    /// Reads until `stream` has brought what `enough` wants to see, and takes it.
    #[track_caller]
    pub fn take(&mut self, stream: u8, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        while !self.received.get(&stream).is_some_and(|got| enough(got)) {
            let got =
                || String::from_utf8_lossy(self.received.get(&stream).map_or(&[][..], Vec::as_slice)).into_owned();
            let so_far = got();
            assert!(self.receive(), "it ended after {so_far:?}");
        }
        self.received.remove(&stream).unwrap_or_default()
    }

    /// As [`Streaming::take`], until the output holds `text`.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let taken = self.take(STDOUT, |got| String::from_utf8_lossy(got).contains(text));
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// The process, to its end.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        while self.receive() {}
        let mut taken = |stream| self.received.remove(&stream).unwrap_or_default();
        let status = taken(STATUS);
        Outcome {
            code: code(&status),
            stdout: taken(STDOUT),
            stderr: String::from_utf8_lossy(&taken(STDERR)).into_owned(),
        }
    }

    /// Says whether there is more to come.
    #[track_caller]
    fn receive(&mut self) -> bool {
        match self.socket.read() {
            Ok(Message::Binary(message)) => {
                if let Some((stream, data)) = message.split_first() {
                    self.received.entry(*stream).or_default().extend_from_slice(data);
                }
                true
            }
            Ok(Message::Close(_)) => false,
            Ok(_) => true,
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => false,
            // The server closes the connection without a farewell.
            Err(tungstenite::Error::Protocol(_)) => false,
            Err(e) => panic!("read from the stream: {e}"),
        }
    }
}

/// The exit code that a status tells.
#[track_caller]
fn code(status: &[u8]) -> i32 {
    let text = String::from_utf8_lossy(status);
    let told: Value = serde_json::from_slice(status).unwrap_or_else(|e| panic!("status {text:?}: {e}"));
    if told["status"] == "Success" {
        return 0;
    }
    let causes = told["details"]["causes"].as_array();
    let cause = causes.and_then(|causes| causes.iter().find(|cause| cause["reason"] == "ExitCode"));
    let code = cause.and_then(|cause| cause["message"].as_str()?.parse().ok());
    code.unwrap_or_else(|| panic!("no exit code: {text}"))
}
