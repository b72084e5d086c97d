// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Dialling a guest's port through the Unix socket of its vsock device: the host says `CONNECT <port>\n`, the device answers
//! `OK <number>\n` when the guest has accepted, or closes. The device serves a guest and is not trusted.

use std::path::Path;

use base::socket::Short;
use base::{Context, Error, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest answer, with its newline.
pub const ANSWER_MAX: usize = 32;

/// Opens a stream to `port`; waits as long as the device does. Errors: `Gone` when no device listens on `socket`,
/// `NotFound` when the guest refuses, `Guest` when the answer makes no sense.
pub async fn dial(socket: &Path, port: u32) -> Result<UnixStream> {
    let what = || format!("connect to {}", socket.display());
    let short = Short::to(socket).context(Kind::Gone, what)?;
    let connected = UnixStream::connect(short.path()).await;
    let mut stream = connected.context(Kind::Gone, what)?;
    let asked = stream.write_all(format!("CONNECT {port}\n").as_bytes()).await;
    asked.context(Kind::Gone, || format!("ask {} for guest port {port}", socket.display()))?;
    let mut answer = [0; ANSWER_MAX];
    let mut filled = 0;
    // Byte by byte: what follows the newline belongs to the caller.
    while let Some(next) = answer.get_mut(filled..=filled) {
        match stream.read(next).await {
            // A device that is killed resets the connection; one that refuses closes it.
            Ok(0) if filled == 0 => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("guest port {port} refuses connections"),
                ));
            }
            Err(e) => return Err(e).context(Kind::Gone, || format!("wait for guest port {port}")),
            Ok(0) => break,
            Ok(_) if next == b"\n" => {
                filled += 1;
                break;
            }
            Ok(_) => filled += 1,
        }
    }
    parse_answer(answer.get(..filled).unwrap_or_default())
        .map(|_| stream)
        .attempt(|| format!("dial guest port {port}"))
}

/// The number in `OK <number>\n`. Errors: `Guest` for anything else.
pub fn parse_answer(line: &[u8]) -> Result<u32> {
    let number = line.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b"\n"));
    let digits = number.filter(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
    let value = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    value.ok_or_else(|| {
        let shown = line
            .get(..ANSWER_MAX.min(line.len()))
            .unwrap_or_default()
            .escape_ascii();
        Error::new(Kind::Guest, format!("the vsock device answered \"{shown}\""))
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_exact_answer_passes() {
        assert_eq!(parse_answer(b"OK 1073741824\n").unwrap(), 1_073_741_824);
        for bad in [
            &b""[..],
            b"OK\n",
            b"OK \n",
            b"OK 1",
            b"OK +1\n",
            b"OK 4294967296\n",
            b"ok 1\n",
            b"OK 1\r\n",
        ] {
            assert_eq!(parse_answer(bad).unwrap_err().kind(), Kind::Guest, "{bad:?}");
        }
    }

    /// Answers one caller with `answer` and returns what it asked and how dialling ended.
    async fn against(answer: &'static [u8]) -> (String, Result<UnixStream>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let device = async {
            let (mut caller, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 13];
            caller.read_exact(&mut asked).await.unwrap();
            caller.write_all(answer).await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        tokio::join!(device, dial(&path, 1024))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_follows_the_answer_is_left_to_the_caller() {
        let (asked, stream) = against(b"OK 7\nhello").await;
        assert_eq!(asked, "CONNECT 1024\n");
        let mut rest = String::new();
        stream.unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn refusal_nonsense_and_absence_are_told_apart() {
        assert_eq!(against(b"").await.1.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(against(b"OK 1").await.1.unwrap_err().kind(), Kind::Guest);
        assert_eq!(against(&[b'x'; 100]).await.1.unwrap_err().kind(), Kind::Guest);
        let dir = tempfile::tempdir().unwrap();
        let nobody = dial(&dir.path().join("vsock.sock"), 1).await;
        assert_eq!(nobody.unwrap_err().kind(), Kind::Gone);
    }
}
