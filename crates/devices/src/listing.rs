// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Entries of directories, read ahead. The guest takes a page of them at a time and not all that a page of the host's holds: a file system
//! that keeps them by hash sorts a block anew for each such request.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtiofsd::filesystem::{Context, DirEntry, DirectoryIterator, FileSystem};
use virtiofsd::passthrough::PassthroughFs;

/// Bytes of entries, as C libraries read them.
const AHEAD: u32 = 32 << 10;
/// Directories of which something is kept: those that were read last.
const MOST: usize = 8;

/// What was read of directories that are open, and not taken yet.
#[derive(Default)]
pub(crate) struct Listings {
    kept: Mutex<VecDeque<Kept>>,
    taking: Arc<AtomicBool>,
}

struct Kept {
    /// Number and handle.
    dir: (u64, u64),
    entries: Arc<Entries>,
    /// How many were taken at least.
    taken: usize,
}

#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    /// One after the other, each with a zero byte behind it.
    names: Vec<u8>,
}

struct Entry {
    ino: u64,
    /// Where the directory goes on behind it.
    offset: u64,
    kind: u32,
    /// Where its name begins.
    name: usize,
}

impl Listings {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries from `at` on, of which `size` bytes are wanted. From the begin, or where the guest goes back, they are read anew.
    pub fn read(
        &self,
        files: &PassthroughFs,
        ctx: Context,
        dir: (u64, u64),
        size: u32,
        at: u64,
    ) -> io::Result<Listing> {
        let mut kept = self.kept();
        let known = kept.iter().position(|one| one.dir == dir).and_then(|n| kept.remove(n));
        if let Some(mut one) = known.filter(|_| at != 0 && size > 0)
            && let Some(next) = one.after(at)
        {
            one.taken = next;
            let listing = self.listing(Arc::clone(&one.entries), next);
            kept.push_back(one);
            return Ok(listing);
        }
        let read = if size == 0 { 0 } else { size.max(AHEAD) };
        let mut found = files.readdir(ctx, dir.0, dir.1, read, at)?;
        let mut entries = Entries::default();
        while let Some(entry) = found.next() {
            entries.add(&entry);
        }
        let entries = Arc::new(entries);
        if size < AHEAD {
            if kept.len() >= MOST {
                kept.pop_front();
            }
            kept.push_back(Kept {
                dir,
                entries: Arc::clone(&entries),
                taken: 0,
            });
        }
        Ok(self.listing(entries, 0))
    }

    fn listing(&self, entries: Arc<Entries>, next: usize) -> Listing {
        self.taking.store(true, Ordering::Relaxed);
        Listing {
            entries,
            next,
            taking: Arc::clone(&self.taking),
        }
    }

    /// Whether a listing is being taken: what is looked up meanwhile are entries of it.
    pub fn taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// The directory is closed.
    pub fn close(&self, dir: (u64, u64)) {
        self.kept().retain(|one| one.dir != dir);
    }

    /// All are closed.
    pub fn clear(&self) {
        self.kept().clear();
    }
}

impl Kept {
    /// The entry behind the one after which the directory goes on at `at`.
    fn after(&self, at: u64) -> Option<usize> {
        let rest = self.entries.all.get(self.taken..)?;
        let next = self.taken + rest.iter().position(|entry| entry.offset == at)? + 1;
        (next < self.entries.all.len()).then_some(next)
    }
}

impl Entries {
    fn add(&mut self, entry: &DirEntry<'_>) {
        self.all.push(Entry {
            ino: entry.ino,
            offset: entry.offset,
            kind: entry.type_,
            name: self.names.len(),
        });
        self.names.extend(entry.name.to_bytes_with_nul());
    }
}

/// Entries for one answer.
pub(crate) struct Listing {
    entries: Arc<Entries>,
    next: usize,
    taking: Arc<AtomicBool>,
}

impl DirectoryIterator for Listing {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        let entry = self.entries.all.get(self.next)?;
        self.next += 1;
        Some(DirEntry {
            ino: entry.ino,
            offset: entry.offset,
            type_: entry.kind,
            name: CStr::from_bytes_until_nul(self.entries.names.get(entry.name..)?).ok()?,
        })
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.taking.store(false, Ordering::Relaxed);
    }
}
