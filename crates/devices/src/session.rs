// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the file server and a guest's kernel have agreed upon when the guest mounted the share (FUSE_INIT): kept when the guest is frozen,
//! and agreed upon again by the server of a copy, which the copy does not ask.
//!
//! A record is the request and the answer, as they were sent (linux/fuse.h: `fuse_in_header`, `fuse_out_header`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// FUSE_INIT.
const INIT: u32 = 26;
/// Bytes of a request's header; its length and its number come first.
const HEADER: usize = 40;
/// More bytes have neither, whatever version of the protocol is spoken.
pub const MOST: usize = 128;

/// Whether a request is the first of a guest's kernel.
pub fn begins(request: &[u8]) -> bool {
    word(request, 1) == Some(INIT)
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let bytes = bytes.get(4 * index..4 * index + 4)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// Request and answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// As the guest sent it.
    pub request: Vec<u8>,
    /// As it got it.
    pub answer: Vec<u8>,
}

impl Record {
    /// That which is in `file`; `None` when it is empty. Errors: `InvalidData` when it is none.
    pub fn read(file: &File) -> io::Result<Option<Record>> {
        let mut bytes = vec![0; 2 * MOST + 1];
        let len = file.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        if bytes.is_empty() {
            return Ok(None);
        }
        let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "the record of a mount makes no sense");
        let len = word(&bytes, 0).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| (HEADER..=MOST).contains(len) && *len < bytes.len());
        let answer = bytes.split_off(len.ok_or_else(nonsense)?);
        let record = Record { request: bytes, answer };
        if begins(&record.request) && record.answer.len() <= MOST {
            Ok(Some(record))
        } else {
            Err(nonsense())
        }
    }

    /// Replaces what is in `file`.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.write_all_at(&[&self.request[..], &self.answer].concat(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(len: u32, opcode: u32) -> Vec<u8> {
        let mut bytes = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
        bytes.resize(56, 7);
        bytes
    }

    #[test]
    fn a_record_comes_back() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Record::read(&file).unwrap(), None);
        let record = Record {
            request: request(56, INIT),
            answer: vec![8; 80],
        };
        Record {
            answer: vec![9; 100],
            ..record.clone()
        }
        .write(&file)
        .unwrap();
        record.write(&file).unwrap();
        assert_eq!(Record::read(&file).unwrap(), Some(record));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (request, answer) in [
            (request(56, 27), 80),
            (request(57 + 80, INIT), 80),
            (request(39, INIT), 80),
            (request(56, INIT), 0),
            (request(56, INIT), MOST + 1),
            (vec![1, 0], 0),
        ] {
            let file = tempfile::tempfile().unwrap();
            let answer = vec![0; answer];
            Record { request, answer }.write(&file).unwrap();
            assert_eq!(Record::read(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
