// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How the process that serves these devices is called: its command line, written by the monitor, read by the process.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// In place of a descriptor that there is not.
const NONE: &str = "-";

/// Listening sockets are inherited: there is no path to race for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The sandbox's directory: listeners for guest programs are there as `<hybrid>_<port>`.
    pub dir: PathBuf,
    /// The directory that the guest gets, and its tag.
    pub share: PathBuf,
    pub tag: String,
    /// vhost-user listener of the file system, of vsock, and the listener for host programs.
    pub fs: RawFd,
    pub vsock: RawFd,
    pub hybrid: RawFd,
    /// File name of the hybrid socket.
    pub name: String,
    /// The guest's context id.
    pub cid: u32,
    /// The file of [`crate::fs::Share::record`].
    pub record: Option<RawFd>,
}

impl Arguments {
    /// The words after `kata device`.
    pub fn words(&self) -> Vec<OsString> {
        vec![
            self.dir.clone().into(),
            self.share.clone().into(),
            self.tag.clone().into(),
            self.fs.to_string().into(),
            self.vsock.to_string().into(),
            self.hybrid.to_string().into(),
            self.name.clone().into(),
            self.cid.to_string().into(),
            self.record.map_or_else(|| NONE.into(), |fd| fd.to_string().into()),
        ]
    }

    /// The inverse of [`Arguments::words`].
    pub fn parse(words: &[OsString]) -> Option<Arguments> {
        let [dir, share, tag, fs, vsock, hybrid, name, cid, record] = words else {
            return None;
        };
        let number = |word: &OsString| word.to_str()?.parse().ok();
        Some(Arguments {
            dir: dir.into(),
            share: share.into(),
            tag: tag.to_str()?.to_owned(),
            fs: number(fs)?,
            vsock: number(vsock)?,
            hybrid: number(hybrid)?,
            name: name.to_str()?.to_owned(),
            cid: cid.to_str()?.parse().ok()?,
            record: if record == NONE { None } else { Some(number(record)?) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let arguments = Arguments {
            dir: "/run/kata/a b".into(),
            share: "/run/kata/a b/shared".into(),
            tag: "kata".into(),
            fs: 3,
            vsock: 4,
            hybrid: 5,
            name: "vsock.sock".into(),
            cid: 3,
            record: Some(6),
        };
        assert_eq!(Arguments::parse(&arguments.words()).as_ref(), Some(&arguments));
        let without = Arguments {
            record: None,
            ..arguments
        };
        assert_eq!(Arguments::parse(&without.words()), Some(without));
        assert_eq!(Arguments::parse(&["x".into()]), None);
    }
}
