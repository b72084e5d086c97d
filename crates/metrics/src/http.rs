// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! As much of HTTP/1 as a page takes: one GET for each connection, small heads, no bodies of requests. All has a bound and a deadline:
//! whoever is slow, talks nonsense or does not listen loses the connection, and nobody else waits for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(5);
/// How long one may take to read the answer.
const READING: Duration = Duration::from_secs(20);
/// How long one may take to hang up.
const LEAVING: Duration = Duration::from_secs(1);
/// Bytes of a request, or of an answer before its body.
const MOST_HEAD: usize = 8192;
const MOST_HEADERS: usize = 64;
/// Clients at once; others wait outside.
const MOST_CLIENTS: usize = 16;
/// How long we wait when the system has no more descriptors for us.
const REST: Duration = Duration::from_millis(200);

/// What a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// The header `Accept`.
    pub accept: String,
}

impl Request {
    /// The value of one of the query's words, as it was sent.
    pub fn word(&self, name: &str) -> Option<&str> {
        let words = self.query.split('&').filter_map(|word| word.split_once('='));
        words
            .into_iter()
            .find(|(word, _)| *word == name)
            .map(|(_, value)| value)
    }
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's number for it.
    pub status: u16,
    /// The header `Content-Type`.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

impl Answer {
    /// What was asked for.
    pub fn found(content_type: &'static str, body: String) -> Answer {
        Answer {
            status: 200,
            content_type,
            body,
        }
    }

    /// A line that says why not.
    pub fn refused(status: u16, why: &str) -> Answer {
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{why}\n"),
        }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// Somebody who is asked.
pub trait Answers: Send + Sync + 'static {
    /// What there is to say; in bounded time.
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// Where clients come in.
pub trait Door: Send {
    /// A connection.
    type Client: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn arrive(&mut self) -> impl Future<Output = io::Result<Self::Client>> + Send;
}

impl Door for UnixListener {
    type Client = UnixStream;

    async fn arrive(&mut self) -> io::Result<UnixStream> {
        self.accept().await.map(|(client, _)| client)
    }
}

impl Door for TcpListener {
    type Client = TcpStream;

    async fn arrive(&mut self) -> io::Result<TcpStream> {
        self.accept().await.map(|(client, _)| client)
    }
}

/// Serves clients for ever, a bounded number of them at once.
pub async fn serve(mut door: impl Door, who: Arc<impl Answers>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            arrived = door.arrive(), if clients.len() < MOST_CLIENTS => match arrived {
                Ok(stream) => {
                    let who = Arc::clone(&who);
                    clients.spawn(async move { attend(stream, &*who).await });
                }
                Err(e) => {
                    log::warn!("take in a client of the metrics: {e}");
                    sleep(REST).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn attend(mut stream: impl AsyncRead + AsyncWrite + Unpin, who: &impl Answers) {
    let asked = match timeout(ASKING, ask(&mut stream)).await {
        Ok(Some(asked)) => asked,
        // Too late, or gone.
        _ => return,
    };
    let (answer, head_only) = match asked {
        Ok((request, head_only)) => (who.answer(request).await, head_only),
        Err(refusal) => (refusal, false),
    };
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.reason(),
        answer.content_type,
        answer.body.len()
    );
    if !head_only {
        text.push_str(&answer.body);
    }
    let told = timeout(READING, async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    });
    if matches!(told.await, Ok(Ok(()))) {
        // Whoever still sends would lose the answer if we hung up first.
        let mut rest = [0; 1024];
        let _ = timeout(LEAVING, async { while let Ok(1..) = stream.read(&mut rest).await {} }).await;
    }
}

/// None when the client has gone.
async fn ask(stream: &mut (impl AsyncRead + Unpin)) -> Option<Result<(Request, bool), Answer>> {
    let mut head = Vec::new();
    loop {
        let mut part = [0; 1024];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&part[..read]);
        match request(&head) {
            Ok(Some(asked)) => return Some(Ok(asked)),
            Ok(None) if head.len() < MOST_HEAD => {}
            Ok(None) => return Some(Err(Answer::refused(431, "the request is too long"))),
            Err(refusal) => return Some(Err(refusal)),
        }
    }
}

/// Reads the head of a request, and whether only that of the answer is wanted; none when it is not whole yet.
pub fn request(head: &[u8]) -> Result<Option<(Request, bool)>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(Answer::refused(400, &format!("this is no request of HTTP/1: {e}"))),
    }
    let head_only = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Answer::refused(405, "there is nothing here but to GET")),
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let accept = parsed
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("accept"));
    let accept = accept.map(|header| String::from_utf8_lossy(header.value).into_owned());
    let request = Request {
        path: path.to_owned(),
        query: query.to_owned(),
        accept: accept.unwrap_or_default(),
    };
    Ok(Some((request, head_only)))
}

/// Asks for `path` and returns the text of the answer. Errors: also when it is larger than `most`, is not there, or is no text. The
/// deadline is the caller's.
pub async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, most: usize) -> Result<String> {
    let what = || format!("ask for {path}");
    let line = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(line.as_bytes()).await.context(Kind::Gone, what)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most.saturating_add(MOST_HEAD)).unwrap_or(u64::MAX);
    let mut limited = (&mut stream).take(limit);
    limited.read_to_end(&mut bytes).await.context(Kind::Gone, what)?;
    let invalid = |why: String| Error::new(Kind::Invalid, what()).because(why);
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let head = match parsed.parse(&bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(invalid("the answer is cut".into())),
        Err(e) => return Err(invalid(format!("the answer is no HTTP: {e}"))),
    };
    let (status, length) = (parsed.code.unwrap_or_default(), length(parsed.headers));
    let body = std::str::from_utf8(&bytes[head..]).map_err(|e| invalid(format!("the answer is no text: {e}")))?;
    if body.len() > most {
        return Err(invalid(format!("the answer is longer than {most} bytes")));
    }
    if length.is_some_and(|length| length != body.len()) {
        return Err(invalid("the answer is cut".into()));
    }
    if status != 200 {
        let kind = if status == 404 { Kind::NotFound } else { Kind::State };
        return Err(Error::new(kind, what()).because(body.trim().to_owned()));
    }
    Ok(body.to_owned())
}

fn length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    let header = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::*;

    struct Echo;

    impl Answers for Echo {
        async fn answer(&self, request: Request) -> Answer {
            match request.path.as_str() {
                "/large" => Answer::found("text/plain", "x".repeat(100_000)),
                "/" => Answer::found(
                    "text/plain",
                    format!("{}|{}|{:?}", request.query, request.accept, request.word("a")),
                ),
                _ => Answer::refused(404, "no such page"),
            }
        }
    }

    struct Queue(mpsc::UnboundedReceiver<DuplexStream>);

    impl Door for Queue {
        type Client = DuplexStream;

        async fn arrive(&mut self) -> io::Result<DuplexStream> {
            self.0.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        }
    }

    fn run<F: Future>(act: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(act)
    }

    async fn exchange(sent: &[u8]) -> String {
        let (mut client, server) = duplex(1 << 20);
        let served = tokio::spawn(async move { attend(server, &Echo).await });
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        served.await.unwrap();
        text
    }

    #[test]
    fn requests_are_answered_or_refused() {
        run(async {
            let text = exchange(b"GET /?b=1&a=2 HTTP/1.1\r\nHost: x\r\nACCEPT: y\r\n\r\n").await;
            assert!(
                text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nb=1&a=2|y|Some(\"2\")"),
                "{text}"
            );
            assert!(exchange(b"GET /no HTTP/1.1\r\n\r\n").await.contains("404 Not Found"));
            assert!(exchange(b"POST / HTTP/1.1\r\n\r\n").await.contains("405 "));
            let text = exchange(b"HEAD /large HTTP/1.1\r\n\r\n").await;
            assert!(
                text.contains("Content-Length: 100000\r\n") && text.ends_with("\r\n\r\n"),
                "{text}"
            );
            assert!(exchange(b"\x00\x01nonsense\r\n\r\n").await.contains("400 "));
            let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MOST_HEAD));
            assert!(exchange(long.as_bytes()).await.contains("431 "));
            assert_eq!(exchange(b"GET / HT").await, "", "it has gone");
        });
    }

    #[test]
    fn our_own_client_is_told_all_or_why_not() {
        run(async {
            let dial = async || {
                let (client, server) = duplex(4096);
                tokio::spawn(async move { attend(server, &Echo).await });
                client
            };
            assert_eq!(get(dial().await, "/large", 100_000).await.unwrap().len(), 100_000);
            let error = get(dial().await, "/large", 99_999).await.unwrap_err();
            assert!(error.chain().contains("longer than 99999"), "{}", error.chain());
            let error = get(dial().await, "/no", 100).await.unwrap_err();
            assert!(
                error.kind() == Kind::NotFound && error.chain().ends_with("no such page"),
                "{}",
                error.chain()
            );
            for (sent, why) in [
                ("", "cut"),
                ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "cut"),
                ("hello", "no HTTP"),
            ] {
                let (client, mut server) = duplex(4096);
                server.write_all(sent.as_bytes()).await.unwrap();
                server.shutdown().await.unwrap();
                let error = get(client, "/", 100).await.unwrap_err();
                assert!(error.chain().contains(why), "{sent}: {}", error.chain());
            }
        });
    }

    #[test]
    fn one_that_says_nothing_keeps_nobody_out() {
        run(async {
            let (arrive, arrived) = mpsc::unbounded_channel::<DuplexStream>();
            tokio::spawn(serve(Queue(arrived), Arc::new(Echo)));
            // Each of them holds a place until its time is over.
            let silent: Vec<_> = (0..MOST_CLIENTS).map(|_| duplex(64)).collect();
            let mut ends = Vec::new();
            for (client, server) in silent {
                arrive.send(server).unwrap();
                ends.push(client);
            }
            let (client, server) = duplex(4096);
            arrive.send(server).unwrap();
            drop(ends.pop());
            assert_eq!(get(client, "/?a", 100).await.unwrap(), "a||None");
        });
    }
}
