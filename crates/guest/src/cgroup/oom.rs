// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Being told that the kernel killed for want of memory.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use base::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Cgroup, parse_pairs};

/// Readable when a count in `memory.events` has changed since the last [`OomWatch::drain`], and once when the
/// group is removed.
#[derive(Debug)]
pub struct OomWatch {
    inotify: Inotify,
    events: PathBuf,
}

impl OomWatch {
    /// Of the group at `path`.
    pub(super) fn new(path: &Path) -> Result<OomWatch> {
        let events = path.join("memory.events");
        let what = || format!("watch {}", events.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).attempt(what)?;
        inotify.add_watch(&events, AddWatchFlags::IN_MODIFY).attempt(what)?;
        Ok(OomWatch { inotify, events })
    }

    /// Takes the notices that have come and says the count as it is now; none once the group is removed.
    pub fn drain(&self) -> Option<u64> {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        fs::read_to_string(&self.events).ok().map(|text| killed(&text))
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

impl Cgroup {
    /// How many processes the kernel has killed in it and below; 0 where memory is not counted.
    pub fn oom_count(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map_or(0, |text| killed(&text))
    }

    /// Tells when that may have changed. Errors: `NotFound` where memory is not counted.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let made = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        made.map_or_else(|| OomWatch::new(&self.path), Ok)
    }
}

fn killed(events: &str) -> u64 {
    parse_pairs(events).get("oom_kill").copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_not_mere_pressure() {
        assert_eq!(killed("low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(killed("high 3\n"), 0);
    }
}
