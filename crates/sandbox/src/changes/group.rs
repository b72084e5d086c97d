// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A fanotify group: the host's kernel says in it who has changed what.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys;

/// Of files, and of the names of a directory.
const CHANGES: u64 = libc::FAN_MODIFY | libc::FAN_ATTRIB;
const NAMES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_EVENT_ON_CHILD
    | libc::FAN_ONDIR;
/// Bytes that one look takes at most.
const BURST: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// One without marks. Errors: a kernel older than 5.9, too many groups.
    pub fn make() -> io::Result<Group> {
        sys::fanotify().map(Group)
    }

    /// Changes of `file` are told from now on; of a directory, those of all that is in it, too.
    pub fn mark(&self, file: &OwnedFd, directory: bool) -> io::Result<()> {
        let mask = if directory { CHANGES | NAMES } else { CHANGES };
        sys::fanotify_mark(self.0.as_fd(), file.as_fd(), mask)
    }
}

impl From<Group> for OwnedFd {
    fn from(group: Group) -> OwnedFd {
        group.0
    }
}

/// The file as records have it: its file system, then its handle with length and kind.
pub fn identity(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut identity = sys::file_system_id(file.as_fd())?.to_vec();
    identity.extend(sys::handle(file.as_fd())?);
    Ok(identity)
}

/// What has come; nothing when there is nothing more.
pub fn read(group: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; BURST];
    match nix::unistd::read(group, &mut bytes) {
        Ok(len) => {
            bytes.truncate(len);
            Ok(bytes)
        }
        Err(nix::Error::EAGAIN) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}
