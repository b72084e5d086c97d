// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `FUSE_HANDLE_KILLPRIV_V2`: the guest's kernel does not ask before each write whether a file has privileges to lose (set-user-id,
//! set-group-id, capabilities); it says in the request when whoever writes may not keep them, and the host's kernel takes them away from
//! a thread without `CAP_FSETID`.
//!
//! virtiofsd's own way goes by a copy of the thread's capabilities that is not read anew after it acted as another user: then nothing
//! is taken away.
//!
//! The guest does not look by itself whether a file has lost them: it must not believe the mode of one that has any longer than the moment.

use std::ops::Range;

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
    let saying = SAYING.iter().find(|(code, ..)| Some(*code) == opcode(bytes));
    saying.is_some_and(|(_, at, flag)| number(bytes, *at).is_some_and(|flags| flags & flag != 0))
}

/// Bytes before an answer's body.
const ANSWER: usize = 16;
/// Of `fuse_entry_out`.
const ENTRY: usize = 128;
/// Of `fuse_dirent`, before the name.
const NAME: usize = 24;
const READDIRPLUS: u32 = 44;
/// Which bytes of an answer to the request that begins with `request` may have to be looked at: how many from its begin.
pub fn told_in(request: &[u8]) -> Option<usize> {
    match opcode(request)? {
        READDIRPLUS => Some(usize::MAX),
        code => body(code).map(|_| ANSWER + ENTRY),
    }
}

/// Where, in an answer to `request`, it says how long the attributes of a file are good that has set-user-id or set-group-id.
pub fn times(request: &[u8], answer: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    match opcode(request) {
        Some(READDIRPLUS) => {
            let mut at = ANSWER;
            while let Some(length) = number(answer, at + ENTRY + 16) {
                look(answer, at, Body::Entry, &mut found);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                at = at.saturating_add((ENTRY + NAME).saturating_add(length).next_multiple_of(8));
            }
        }
        code => {
            if let Some(body) = code.and_then(body) {
                look(answer, ANSWER, body, &mut found);
            }
        }
    }
    found
}

/// What has attributes.
#[derive(Debug, Clone, Copy)]
enum Body {
    /// `fuse_entry_out`
    Entry,
    /// `fuse_attr_out`
    Attributes,
}

/// Of the answer to a request.
fn body(opcode: u32) -> Option<Body> {
    match opcode {
        // LOOKUP, MKNOD, LINK, CREATE
        1 | 8 | 13 | 35 => Some(Body::Entry),
        // GETATTR, SETATTR
        3 | 4 => Some(Body::Attributes),
        _ => None,
    }
}

fn look(answer: &[u8], at: usize, body: Body, found: &mut Vec<Range<usize>>) {
    const REGULAR: u32 = 0o100_000;
    let (mode, times) = match body {
        Body::Entry => (100, [24..32, 36..40]),
        Body::Attributes => (76, [0..8, 8..12]),
    };
    if number(answer, at + mode).is_some_and(|mode| mode & 0o170_000 == REGULAR && mode & 0o6000 != 0) {
        found.extend(times.map(|time| at + time.start..at + time.end));
    }
}

fn opcode(request: &[u8]) -> Option<u32> {
    number(request, 4)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at.checked_add(4)?)?;
    found.try_into().ok().map(u32::from_le_bytes)
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

    /// The bytes of an entry with this mode and a name of this length.
    fn entry(mode: u32, name: usize) -> Vec<u8> {
        let mut bytes = vec![1; ENTRY + NAME + name];
        bytes[100..104].copy_from_slice(&mode.to_le_bytes());
        bytes[ENTRY + 16..ENTRY + 20].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn only_files_with_privileges_are_not_believed_for_long() {
        let head = vec![0; ANSWER];
        for (mode, privileged) in [
            (0o104_755, true),
            (0o102_755, true),
            (0o100_755, false),
            (0o101_777, false),
            (0o042_755, false),
        ] {
            let wanted = |times: [Range<usize>; 2]| if privileged { times.to_vec() } else { Vec::new() };
            let answer = [head.clone(), entry(mode, 0)].concat();
            for opcode in [1, 8, 13, 35] {
                let request = request(opcode, 8, 0);
                assert_eq!(times(&request, &answer), wanted([40..48, 52..56]), "{mode:o}");
                assert_eq!(told_in(&request), Some(ANSWER + ENTRY));
            }
            let mut answer = vec![0; ANSWER + 104];
            answer[ANSWER + 76..ANSWER + 80].copy_from_slice(&mode.to_le_bytes());
            for opcode in [3, 4] {
                let request = request(opcode, 8, 0);
                assert_eq!(times(&request, &answer), wanted([16..24, 24..28]), "{mode:o}");
                // What has not come whole says nothing.
                assert!((0..ANSWER + 80).all(|len| times(&request, &answer[..len]).is_empty()));
            }
            assert_eq!(told_in(&request(16, 8, 0)), None);
        }
    }

    #[test]
    fn each_entry_of_a_directory_is_looked_at() {
        let request = request(READDIRPLUS, 8, 0);
        let entries = [entry(0o100_644, 3), entry(0o104_755, 8), entry(0o102_755, 1)];
        let mut answer = [vec![0; ANSWER], entries.concat()].concat();
        let second = ANSWER + entries[0].len();
        let third = second + entries[1].len();
        let wanted: Vec<_> = [second, third].map(|at| [at + 24..at + 32, at + 36..at + 40]).concat();
        assert_eq!(times(&request, &answer), wanted);
        // A name that is as long as can be said.
        answer[ANSWER + ENTRY + 16..ANSWER + ENTRY + 20].fill(0xff);
        assert!(times(&request, &answer).is_empty());
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
