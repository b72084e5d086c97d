// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The registers of a machine's devices, from outside, while its processors stand: QEMU's test protocol (`-object qtest`), one line per
//! access, answered in order. QEMU may have been taken over by its guest: lines are bounded and waits end.

use std::time::Duration;

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest answer that is read, in bytes; good ones have twenty.
const LINE_MAX: usize = 256;

/// How wide an access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
}

impl Width {
    fn letter(self) -> char {
        match self {
            Width::Byte => 'b',
            Width::Word => 'w',
            Width::Long => 'l',
        }
    }
}

/// One access, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Writes a value.
    Write(Width, u64, u32),
    /// Reads, and finds this value or fails.
    Expect(Width, u64, u32),
}

/// See the module.
#[derive(Debug)]
pub struct Registers {
    stream: UnixStream,
    received: Vec<u8>,
    /// How long an answer may take.
    patience: Duration,
}

impl Registers {
    /// Speaks to QEMU's end of `stream`.
    pub fn new(stream: UnixStream, patience: Duration) -> Registers {
        Registers {
            stream,
            received: Vec::new(),
            patience,
        }
    }

    /// The value at the guest's address `at`.
    pub async fn read(&mut self, width: Width, at: u64) -> Result<u32> {
        let what = || format!("read the register at {at:#x}");
        let answer = timeout(self.patience, self.value_at(width, at)).await;
        answer.context(Kind::Timeout, what)?.attempt(what)
    }

    async fn value_at(&mut self, width: Width, at: u64) -> Result<u32> {
        self.ask(&line(width, at, None)).await?;
        self.value().await
    }

    /// Does all of it, without waiting for one answer before the next. Errors: `State` when a value is another than the one
    /// expected; what follows was done nevertheless.
    pub async fn play(&mut self, accesses: &[Access]) -> Result<()> {
        let all = timeout(self.patience, self.exchange(accesses)).await;
        all.context(Kind::Timeout, || "set registers of the machine".into())?
    }

    async fn exchange(&mut self, accesses: &[Access]) -> Result<()> {
        let lines = accesses.iter().map(|access| match *access {
            Access::Write(width, at, value) => line(width, at, Some(value)),
            Access::Expect(width, at, _) => line(width, at, None),
        });
        self.ask(&lines.collect::<String>()).await?;
        for access in accesses {
            match *access {
                Access::Write(_, at, _) => {
                    self.line().await.attempt(|| format!("write the register at {at:#x}"))?;
                }
                Access::Expect(_, at, wanted) => {
                    let what = || format!("read the register at {at:#x}");
                    let found = self.value().await.attempt(what)?;
                    if found != wanted {
                        let why = format!("it is {found:#x}, not {wanted:#x}");
                        return Err(Error::new(Kind::State, what()).because(why));
                    }
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, lines: &str) -> Result<()> {
        let written = self.stream.write_all(lines.as_bytes()).await;
        written.context(Kind::Gone, || "write to QEMU's registers".into())
    }

    /// What an answer says after its first word.
    async fn value(&mut self) -> Result<u32> {
        let text = self.line().await?;
        let value = text
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let value = value.and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| Error::new(Kind::Guest, "QEMU's answer is no value"))
    }

    /// The rest of the next answer. Errors: `State` when QEMU refused, `Gone`, `Guest`.
    async fn line(&mut self) -> Result<String> {
        let what = || "read QEMU's registers".to_owned();
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = crate::tail::printable(&line, 1);
                let answer = line.trim_end();
                return match answer.strip_prefix("OK") {
                    Some(rest) => Ok(rest.trim_start().to_owned()),
                    None => Err(Error::new(Kind::State, what()).because(answer.to_owned())),
                };
            }
            if self.received.len() >= LINE_MAX {
                return Err(Error::new(Kind::Guest, "QEMU's registers send a line without end"));
            }
            // Not more than fits: answers to all that was asked may be there.
            let mut part = [0; LINE_MAX];
            let read = self.stream.read(&mut part).await.context(Kind::Gone, what)?;
            if read == 0 {
                return Err(Error::new(Kind::Gone, "QEMU closed its registers"));
            }
            self.received.extend(part.iter().take(read));
        }
    }
}

fn line(width: Width, at: u64, value: Option<u32>) -> String {
    let letter = width.letter();
    match value {
        Some(value) => format!("write{letter} {at:#x} {value:#x}\n"),
        None => format!("read{letter} {at:#x}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers behind which QEMU says `answers`, and what it was asked.
    async fn answered(answers: &str, accesses: &[Access]) -> (Result<()>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answers.as_bytes()).await.unwrap();
        let mut registers = Registers::new(ours, Duration::from_secs(30));
        let played = registers.play(accesses).await;
        let mut asked = Vec::new();
        theirs.read_buf(&mut asked).await.unwrap();
        (played, String::from_utf8(asked).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn accesses_are_asked_for_together_and_checked_in_order() {
        let accesses = [
            Access::Write(Width::Byte, 0x10, 3),
            Access::Expect(Width::Long, 0x14, 0xfee0_1004),
            Access::Expect(Width::Word, 0x18, 7),
        ];
        let (played, asked) = answered("OK\nOK 0x00000000fee01004\nOK 0x0000000000000007\n", &accesses).await;
        played.unwrap();
        assert_eq!(asked, "writeb 0x10 0x3\nreadl 0x14\nreadw 0x18\n");
        let (played, _) = answered("OK\nOK 0x0000000000000001\nOK 0x7\n", &accesses).await;
        let error = played.unwrap_err();
        assert_eq!(error.kind(), Kind::State);
        assert!(
            error.chain().ends_with("it is 0x1, not 0xfee01004"),
            "{}",
            error.chain()
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_answer_is_told() {
        let access = [Access::Expect(Width::Long, 0x14, 1)];
        let flood = "x".repeat(2 * LINE_MAX);
        for (answer, kind) in [
            ("FAIL Unknown command\n", Kind::State),
            ("OK\n", Kind::Guest),
            ("OK 0x1ffffffff\n", Kind::Guest),
            (&flood, Kind::Guest),
        ] {
            let (played, _) = answered(answer, &access).await;
            assert_eq!(played.unwrap_err().kind(), kind, "{answer:.20}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut registers = Registers::new(ours, Duration::from_secs(30));
        assert_eq!(registers.read(Width::Byte, 1).await.unwrap_err().kind(), Kind::Gone);
    }
}
