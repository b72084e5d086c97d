// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the guest says of a container's processes, put together from its parts. Nothing of it is believed: sizes are bounded, and the
//! texts are only handed on.

use std::collections::{BTreeMap, BTreeSet};

use api::agent::ReadProcessesResponse;
use base::{Error, Kind, Result};

/// Most bytes that are kept.
const MOST: usize = 16 << 20;
/// Major number of the terminals below `/dev/pts`.
const PTS: u32 = 136;

/// The files of `/proc/<pid>`.
#[derive(Debug, Default)]
pub struct Files {
    pub stat: Vec<u8>,
    pub status: Vec<u8>,
    pub cmdline: Vec<u8>,
    pub comm: Vec<u8>,
}

impl Files {
    /// Bytes of memory; also of a process of which nothing is said.
    fn size(&self) -> usize {
        size_of::<Files>() + self.stat.len() + self.status.len() + self.cmdline.len() + self.comm.len()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    pub processes: BTreeMap<u32, Files>,
    pub stat: Vec<u8>,
    pub uptime: Vec<u8>,
    /// Device numbers of terminals that processes have, below `/dev/pts`.
    pub terminals: BTreeSet<u32>,
    size: usize,
}

impl Table {
    /// Adds a part; the pid after which the next one begins, if there is one. Errors: `Guest` when there is too much.
    pub fn add(&mut self, part: ReadProcessesResponse) -> Result<Option<u32>> {
        let before = self.processes.last_key_value().map_or(0, |(pid, _)| *pid);
        self.size += part.stat.len() + part.uptime.len();
        (self.stat, self.uptime) = (part.stat, part.uptime);
        for process in part.processes {
            let files = Files {
                stat: process.stat,
                status: process.status,
                cmdline: process.cmdline,
                comm: process.comm,
            };
            self.size += files.size();
            self.terminals.extend(terminal(&files.stat));
            self.processes.insert(process.pid, files);
        }
        self.processes.remove(&0);
        if self.size > MOST {
            return Err(Error::new(Kind::Guest, "the container's processes say too much"));
        }
        let last = self.processes.last_key_value().map_or(0, |(pid, _)| *pid);
        Ok((part.more && last > before).then_some(last))
    }
}

/// The device number of the process's terminal, from its `stat`.
fn terminal(stat: &[u8]) -> Option<u32> {
    // The name may hold anything, also brackets.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let number: u32 = rest.split_ascii_whitespace().nth(4)?.parse().ok()?;
    (number >> 8 & 0xfff == PTS).then_some(number)
}

/// Its name below `/dev/pts`.
pub fn index(terminal: u32) -> u32 {
    terminal & 0xff | terminal >> 12 & 0xfff00
}

/// The terminal of that name.
pub fn device(index: u32) -> Option<u32> {
    (index < 1 << 20).then_some(index & 0xff | PTS << 8 | (index & 0xfff00) << 12)
}

#[cfg(test)]
mod tests {
    use api::agent::ProcessFiles;

    use super::*;

    fn part(pids: &[u32], more: bool, size: usize) -> ReadProcessesResponse {
        let processes = pids.iter().map(|pid| ProcessFiles {
            pid: *pid,
            stat: b"1 (a) b) S 0 1 1 34816 1 0".to_vec(),
            cmdline: vec![b'x'; size],
            ..ProcessFiles::default()
        });
        ReadProcessesResponse {
            processes: processes.collect(),
            more,
            ..ReadProcessesResponse::default()
        }
    }

    #[test]
    fn parts_are_put_together_and_end_when_nothing_new_comes() {
        let mut table = Table::default();
        assert_eq!(table.add(part(&[1, 5], true, 1)).unwrap(), Some(5));
        assert_eq!(table.add(part(&[5], true, 1)).unwrap(), None);
        assert_eq!(table.add(part(&[7, 0], false, 1)).unwrap(), None);
        assert_eq!(table.processes.keys().copied().collect::<Vec<_>>(), [1, 5, 7]);
        assert_eq!(table.terminals.iter().copied().collect::<Vec<_>>(), [34816]);
    }

    fn nothing(pid: u32) -> ProcessFiles {
        ProcessFiles {
            pid,
            ..ProcessFiles::default()
        }
    }

    #[test]
    fn too_much_is_refused() {
        let mut table = Table::default();
        for _ in 0..4 {
            table.add(part(&[1], true, 4_000_000)).unwrap();
        }
        assert_eq!(table.add(part(&[1], true, 4_000_000)).unwrap_err().kind(), Kind::Guest);
        let many = ReadProcessesResponse {
            processes: (1..200_000).map(nothing).collect(),
            ..ReadProcessesResponse::default()
        };
        assert_eq!(Table::default().add(many).unwrap_err().kind(), Kind::Guest);
    }

    #[test]
    fn terminals_are_found_behind_any_name() {
        assert_eq!(terminal(b"1 (a ) 1 2 (b)) S 0 1 1 34817 1 0"), Some(34817));
        assert_eq!(index(34817), 1);
        assert_eq!(index(0x0010_8801), 257);
        assert_eq!((device(257), device(1 << 20)), (Some(0x0010_8801), None));
        for none in [
            &b"1 (a) S 0 1 1 0 -1"[..],
            b"1 (a) S 0 1 1 1025 1",
            b"1 (a) S",
            b"",
            b"(\xff) \xff",
        ] {
            assert_eq!(terminal(none), None);
        }
    }
}
