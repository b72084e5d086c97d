// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Requests by which the agent makes its kernel raise events for what the host has changed: they are to change nothing, here least of
//! all. Pure: from the bytes of a request to those of another one. See [`api::notice`].

use std::sync::{Mutex, PoisonError};

/// Bytes that are looked at: a header, and the longest body of these requests.
pub const LOOKED_AT: usize = HEADER + 88;
const HEADER: usize = 40;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
/// A time of modification is given.
const MTIME: u32 = 1 << 5;

/// See the module.
#[derive(Debug, Default)]
pub struct Notices {
    /// Who has told of which file last: if it opens that to write, it will not.
    teller: Mutex<Option<(u32, u64)>>,
}

impl Notices {
    /// What is to be served in place of the request that begins with `bytes`; none: it means what it says.
    pub fn instead(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = Request(bytes);
        match request.u32(4)? {
            SETATTR => {
                let told = request.u32(HEADER)? & MTIME != 0 && request.i64(HEADER + 40)? == api::notice::SECONDS;
                if !told {
                    return None;
                }
                *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.teller()?);
                request.with(GETATTR, &[0; 16])
            }
            OPEN => {
                let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
                if *teller != Some(request.teller()?) {
                    return None;
                }
                *teller = None;
                let kept = !(libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND).cast_unsigned();
                let flags = request.u32(HEADER)? & kept;
                request.with(OPEN, &[flags.to_le_bytes(), [0; 4]].concat())
            }
            _ => None,
        }
    }
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn i64(&self, at: usize) -> Option<i64> {
        self.array(at).map(i64::from_le_bytes)
    }

    /// Thread and file.
    fn teller(&self) -> Option<(u32, u64)> {
        Some((self.u32(32)?, self.array(16).map(u64::from_le_bytes)?))
    }

    /// The same thread's request of the same file, of another kind.
    fn with(&self, opcode: u32, body: &[u8]) -> Option<Vec<u8>> {
        let mut header: [u8; HEADER] = self.array(0)?;
        let len = u32::try_from(HEADER + body.len()).ok()?;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&opcode.to_le_bytes());
        Some([&header[..], body].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, node: u64, pid: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[16..24].copy_from_slice(&node.to_le_bytes());
        bytes[32..36].copy_from_slice(&pid.to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn set(valid: u32, seconds: i64, pid: u32) -> Vec<u8> {
        let mut body = [0; 88];
        body[..4].copy_from_slice(&valid.to_le_bytes());
        body[40..48].copy_from_slice(&seconds.to_le_bytes());
        request(SETATTR, 5, pid, &body)
    }

    #[test]
    fn a_time_that_is_none_becomes_a_question() {
        let notices = Notices::default();
        assert_eq!(notices.instead(&set(MTIME, 7, 9)), None);
        assert_eq!(notices.instead(&set(0, api::notice::SECONDS, 9)), None);
        let instead = notices.instead(&set(MTIME | 1 << 4, api::notice::SECONDS, 9)).unwrap();
        assert_eq!(instead.len(), 56);
        assert_eq!((instead[0], instead[4], instead[16], instead[32]), (56, 3, 5, 9));
        for short in [0, 7, 39, 60, 100] {
            let all = set(MTIME, api::notice::SECONDS, 9);
            let _ = notices.instead(&all[..short]);
        }
    }

    #[test]
    fn only_who_has_told_opens_in_vain_and_only_once() {
        let notices = Notices::default();
        let write = (libc::O_WRONLY | libc::O_NOFOLLOW).cast_unsigned().to_le_bytes();
        let open = |node, pid| request(OPEN, node, pid, &[write, [0; 4]].concat());
        assert_eq!(notices.instead(&open(5, 9)), None);
        notices.instead(&set(MTIME, api::notice::SECONDS, 9)).unwrap();
        assert_eq!(notices.instead(&open(5, 8)), None, "another thread's");
        assert_eq!(notices.instead(&open(6, 9)), None, "another file's");
        let instead = notices.instead(&open(5, 9)).unwrap();
        assert_eq!(instead[40..44], libc::O_NOFOLLOW.cast_unsigned().to_le_bytes());
        assert_eq!(notices.instead(&open(5, 9)), None);
    }
}
