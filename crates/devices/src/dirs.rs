// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directories that the guest works in, by descriptor: where files are known by handle, each use of a directory would open it anew.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtiofsd::filesystem::{Context, FileSystem, ZeroCopyWriter};
use virtiofsd::oslib::ReadvFlags;
use virtiofsd::passthrough::PassthroughFs;

/// More than programs work in at once, few beside what may be open.
const MOST: usize = 64;

/// By number; those that were used last are at the end. A number means one directory until it is forgotten, and never another.
#[derive(Default)]
pub(crate) struct Dirs {
    open: Mutex<VecDeque<(u64, Arc<OwnedFd>)>>,
}

impl Dirs {
    fn open(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<OwnedFd>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory of `files`, for names in it only (`O_PATH`). Errors: it is none, there is none of this number, no more can be opened.
    pub fn get(&self, files: &PassthroughFs, ctx: Context, inode: u64) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.open();
        let found = open.iter().rposition(|(known, _)| *known == inode);
        let used = match found.and_then(|at| open.remove(at)) {
            Some((_, dir)) => dir,
            None => Arc::new(descriptor(files, ctx, inode)?),
        };
        if open.len() >= MOST {
            open.pop_front();
        }
        open.push_back((inode, Arc::clone(&used)));
        Ok(used)
    }

    /// Lets go of those that the guest forgets. One that it still knows is opened again when it is used.
    pub fn forget(&self, inodes: impl Iterator<Item = u64>) {
        let mut open = self.open();
        for inode in inodes {
            if let Some(at) = open.iter().position(|(known, _)| *known == inode) {
                open.remove(at);
            }
        }
    }

    /// Lets go of all.
    pub fn clear(&self) {
        self.open().clear();
    }
}

/// What `files` knows by this number. It gives no descriptor away, but reads through whoever answers.
fn descriptor(files: &PassthroughFs, ctx: Context, inode: u64) -> io::Result<OwnedFd> {
    let none = || io::Error::from_raw_os_error(libc::EBADF);
    let (handle, _) = files.opendir(ctx, inode, libc::O_PATH.cast_unsigned())?;
    let handle = handle.ok_or_else(none)?;
    let mut taken = Taken(None);
    let read = files.read(ctx, inode, handle, &mut taken, 0, 0, None, 0);
    files.releasedir(ctx, inode, 0, handle)?;
    read?;
    taken.0.map(OwnedFd::from).ok_or_else(none)
}

/// Takes the file that it is to read.
struct Taken(Option<File>);

impl ZeroCopyWriter for Taken {
    fn read_from_file_at(&mut self, file: &File, _: usize, _: u64, _: Option<ReadvFlags>) -> io::Result<usize> {
        self.0 = Some(file.try_clone()?);
        Ok(0)
    }
}
