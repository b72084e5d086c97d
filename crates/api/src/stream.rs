// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The first bytes on a connection to [`crate::port::STDIO`]: the host says which stream it wants, the agent
//! answers, then raw bytes flow and half-close is end of file.
//!
//! ```text
//! host  -> guest   "KIO1" fd:u8 id_len:u16le id exec_len:u16le exec_id
//! guest -> host    status:u8 (0 = streaming)  |  1 len:u16le message
//! ```
//!
//! `fd` is 0, 1 or 2. A terminal has one stream, 0, for both directions.

use std::io::{self, Read, Write};

/// First four bytes of a connection; the digit is the version.
pub const MAGIC: [u8; 4] = *b"KIO1";
/// Longest id that is taken, in bytes.
pub const MAX_ID: usize = 1024;
/// Longest refusal text that is taken, in bytes; longer ones are cut by the sender.
pub const MAX_MESSAGE: usize = 4096;

/// Which stream of which process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Container.
    pub id: String,
    /// Process in it; empty for its init.
    pub exec_id: String,
    /// 0, 1 or 2.
    pub fd: u8,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn text(from: &mut impl Read, max: usize) -> io::Result<String> {
    let mut len = [0; 2];
    from.read_exact(&mut len)?;
    let len = usize::from(u16::from_le_bytes(len));
    if len > max {
        return Err(invalid(format!("text of {len} bytes, at most {max} are taken")));
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| invalid("text is not UTF-8"))
}

fn put_text(to: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let len = u16::try_from(text.len()).map_err(|_| invalid("text of 64 KiB or more"))?;
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(text.as_bytes());
    Ok(())
}

impl Hello {
    /// The frame as bytes. Errors: an id longer than [`MAX_ID`].
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        if self.id.len() > MAX_ID || self.exec_id.len() > MAX_ID {
            return Err(invalid(format!("id longer than {MAX_ID} bytes")));
        }
        let mut frame = MAGIC.to_vec();
        frame.push(self.fd);
        put_text(&mut frame, &self.id)?;
        put_text(&mut frame, &self.exec_id)?;
        Ok(frame)
    }

    /// Reads one frame. Errors: `InvalidData` for anything that [`Hello::encode`] does not write.
    pub fn decode(from: &mut impl Read) -> io::Result<Hello> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [magic @ .., fd] = head;
        if magic != MAGIC {
            return Err(invalid(format!("magic {magic:02x?}, {MAGIC:02x?} is spoken here")));
        }
        if fd > 2 {
            return Err(invalid(format!("stream {fd}, 0 to 2 exist")));
        }
        let id = text(from, MAX_ID)?;
        let exec_id = text(from, MAX_ID)?;
        Ok(Hello { id, exec_id, fd })
    }
}

/// Writes the agent's answer: ready, or why not.
pub fn put_answer(to: &mut impl Write, answer: Result<(), &str>) -> io::Result<()> {
    let Err(message) = answer else {
        return to.write_all(&[0]);
    };
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut frame = vec![1];
    put_text(&mut frame, &message[..end])?;
    to.write_all(&frame)
}

/// Reads the agent's answer: `Ok(Err(why))` when it refused the stream.
pub fn answer(from: &mut impl Read) -> io::Result<Result<(), String>> {
    let mut status = [0];
    from.read_exact(&mut status)?;
    match status[0] {
        0 => Ok(Ok(())),
        1 => Ok(Err(text(from, MAX_MESSAGE)?)),
        other => Err(invalid(format!("answer {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_round_trips() {
        let hello = Hello {
            id: "c1".into(),
            exec_id: "e-ü".into(),
            fd: 2,
        };
        let frame = hello.encode().unwrap();
        assert_eq!(Hello::decode(&mut &frame[..]).unwrap(), hello);
        for cut in 0..frame.len() {
            assert!(Hello::decode(&mut &frame[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_encode_does_not_write_is_refused() {
        let bad: [&[u8]; 4] = [
            b"KIO2\0\0\0\0\0",
            b"KIO1\x03\0\0\0\0",
            b"KIO1\0\xff\xff",
            b"KIO1\0\x01\0\xff\0\0",
        ];
        for frame in bad {
            assert!(Hello::decode(&mut &frame[..]).is_err(), "{frame:02x?}");
        }
        let long = Hello {
            id: "x".repeat(MAX_ID + 1),
            exec_id: String::new(),
            fd: 0,
        };
        assert!(long.encode().is_err());
    }

    #[test]
    fn answers_round_trip_and_long_refusals_are_cut_between_characters() {
        for sent in [Ok(()), Err("no such process")] {
            let mut bytes = Vec::new();
            put_answer(&mut bytes, sent).unwrap();
            assert_eq!(answer(&mut &bytes[..]).unwrap(), sent.map_err(str::to_owned));
        }
        let mut bytes = Vec::new();
        put_answer(&mut bytes, Err(&"ü".repeat(MAX_MESSAGE))).unwrap();
        let got = answer(&mut &bytes[..]).unwrap().unwrap_err();
        assert_eq!(got.len(), MAX_MESSAGE);
    }
}
