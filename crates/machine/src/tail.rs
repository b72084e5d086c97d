// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The end of what a process or a guest printed, for error messages: bounded, and safe to show on a terminal. The writer is
//! not trusted.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Context, Result};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Bytes that are kept.
pub const KEPT: usize = 16 * 1024;
/// Lines that are shown.
pub const LINES: usize = 40;
/// Bytes that one look at the descriptor takes at most.
const BURST: usize = 64 * 1024;
/// Rest between two looks: a writer that never stops costs us little, and waits.
const REST: Duration = Duration::from_millis(5);

/// The last bytes of a stream, read as they come by a task of the runtime that it was created in.
pub struct Tail {
    stream: Arc<Stream>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Stream {
    // Order: only ever taken alone, never across an await.
    kept: Mutex<VecDeque<u8>>,
    from: StdUnixStream,
}

impl Tail {
    /// Starts to read `from`. Must be called inside a tokio runtime.
    pub fn of(from: StdUnixStream) -> Result<Tail> {
        from.set_nonblocking(true)
            .attempt(|| "unblock an output stream".into())?;
        let watched = from.try_clone().and_then(UnixStream::from_std);
        let watched = watched.attempt(|| "watch an output stream".into())?;
        let stream = Arc::new(Stream {
            kept: Mutex::new(VecDeque::new()),
            from,
        });
        let source = Arc::clone(&stream);
        let task = tokio::spawn(async move {
            while watched.readable().await.is_ok() {
                match watched.try_io(Interest::READABLE, || source.pump()) {
                    Ok(Pumped::End) => break,
                    // `WouldBlock`, which tells the runtime to wait for more.
                    Ok(Pumped::Burst) | Err(_) => tokio::time::sleep(REST).await,
                }
            }
        });
        Ok(Tail { stream, task })
    }

    /// The last lines, with what has arrived up to now.
    pub fn text(&self) -> String {
        // Empty and ended streams are fine here, too.
        let _ = self.stream.pump();
        let Ok(kept) = self.stream.kept.lock() else {
            return String::new();
        };
        let bytes: Vec<u8> = kept.iter().copied().collect();
        printable(&bytes, LINES)
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail")
            .field("from", &self.stream.from)
            .finish_non_exhaustive()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one look found.
enum Pumped {
    /// A full burst: there may be more.
    Burst,
    End,
}

impl Stream {
    /// Takes what is there, at most [`BURST`]. Errors: `WouldBlock` when nothing is left.
    fn pump(&self) -> io::Result<Pumped> {
        let mut chunk = [0; 4096];
        for _ in 0..BURST / chunk.len() {
            match (&self.from).read(&mut chunk) {
                Ok(0) => return Ok(Pumped::End),
                Ok(n) => self.keep(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(e),
                Err(_) => return Ok(Pumped::End),
            }
        }
        Ok(Pumped::Burst)
    }

    fn keep(&self, bytes: &[u8]) {
        let Ok(mut kept) = self.kept.lock() else { return };
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

/// The last `lines` lines of `bytes` without control characters, escape sequences and empty lines; what is not UTF-8 is
/// replaced.
pub fn printable(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            '\u{1b}' => {
                // A control sequence (ECMA-48 5.4) ends with a byte from @ to ~; any other escape is two characters here.
                if chars.next() == Some('[') {
                    while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
                    chars.next_if(|c| ('@'..='~').contains(c));
                }
            }
            c if c.is_control() || is_format(c) => {}
            c => clean.push(c),
        }
    }
    let full: Vec<&str> = clean
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    full.get(full.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// Characters that change how the others are shown (bidirectional overrides and the like).
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_removed() {
        let hostile = b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07x\x08y\x00\xff\n\n\ta\xe2\x80\xaeb\n\x1b";
        assert_eq!(printable(hostile, 9), "red\n0;titlexy\u{fffd}\n ab");
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        assert_eq!(printable(b"a\nb\nc\n", 2), "b\nc");
        assert_eq!(printable(b"a", 2), "a");
        assert_eq!(printable(b"", 2), "");
        assert_eq!(printable(b"a\nb", 0), "");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_flood_keeps_its_end_and_the_end_of_the_writer_is_noticed() {
        let (reader, writer) = StdUnixStream::pair().unwrap();
        let tail = Tail::of(reader).unwrap();
        let thread = std::thread::spawn(move || {
            let mut writer = writer;
            for n in 0..20_000 {
                writeln!(writer, "line {n}").unwrap();
            }
        });
        while !thread.is_finished() || !tail.text().ends_with("line 19999") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(tail.text().lines().count(), LINES);
        assert!(tail.stream.kept.lock().unwrap().len() <= KEPT);
    }
}
