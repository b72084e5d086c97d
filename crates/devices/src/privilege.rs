// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `FUSE_HANDLE_KILLPRIV_V2`: the guest's kernel does not ask before each write whether a file has privileges to lose (set-user-id,
//! set-group-id, capabilities); it says in the request when whoever writes may not keep them, and the host's kernel takes them away from
//! a thread without `CAP_FSETID`.
//!
//! virtiofsd's own way goes by a copy of the thread's capabilities that is not read anew after it acted as another user: then nothing
//! is taken away.

use capctl::{Cap, CapState};

/// Bytes of a request that are looked at.
pub const LOOKED_AT: usize = HEADER + 24;
const HEADER: usize = 40;
/// Opcode, where its flags are, and which flag says so.
const SAYING: [(u32, usize, u32); 4] = [
    (4, HEADER, 1 << 11),      // FUSE_SETATTR, FATTR_KILL_SUIDGID
    (14, HEADER + 4, 1 << 0),  // FUSE_OPEN, FUSE_OPEN_KILL_SUIDGID
    (16, HEADER + 20, 1 << 2), // FUSE_WRITE, FUSE_WRITE_KILL_SUIDGID
    (35, HEADER + 12, 1 << 0), // FUSE_CREATE, FUSE_OPEN_KILL_SUIDGID
];

/// Whether the request that begins with `bytes` is to be served without `CAP_FSETID`.
pub fn are_lost(bytes: &[u8]) -> bool {
    let number = |at: usize| {
        let found = bytes.get(at..at + 4)?;
        found.try_into().ok().map(u32::from_le_bytes)
    };
    let opcode = number(4);
    let saying = SAYING.iter().find(|(code, ..)| Some(*code) == opcode);
    saying.is_some_and(|(_, at, flag)| number(*at).is_some_and(|flags| flags & flag != 0))
}

/// This thread is without `CAP_FSETID` as long as this lives.
#[derive(Debug)]
pub struct Forgone {
    before: CapState,
}

impl Forgone {
    /// Errors: the kernel does not let us; then the request must fail.
    pub fn begin() -> capctl::Result<Forgone> {
        let before = CapState::get_current()?;
        let mut now = before;
        now.effective.drop(Cap::FSETID);
        now.set_current()?;
        Ok(Forgone { before })
    }
}

impl Drop for Forgone {
    fn drop(&mut self) {
        if let Err(e) = self.before.set_current() {
            log::error!("take CAP_FSETID back: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, at: usize, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; LOOKED_AT];
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[at..at + 4].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn what_says_so_is_seen_and_short_ones_say_nothing() {
        for (opcode, at, flag) in SAYING {
            let bytes = request(opcode, at, flag | 1 << 31);
            assert!(are_lost(&bytes));
            assert!(!are_lost(&request(opcode, at, !flag)));
            assert!(!are_lost(&request(opcode + 1, at, flag)));
            assert!((0..at + 4).all(|len| !are_lost(&bytes[..len])));
        }
    }

    #[test]
    fn a_thread_has_its_capability_back() {
        let has = || CapState::get_current().unwrap().effective;
        let before = has();
        if !before.has(Cap::FSETID) {
            eprintln!("skipped: needs CAP_FSETID");
            return;
        }
        let forgone = Forgone::begin().unwrap();
        assert!(!has().has(Cap::FSETID));
        drop(forgone);
        assert_eq!(has(), before);
    }
}
