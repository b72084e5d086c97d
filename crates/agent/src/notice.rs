// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Makes the guest's kernel raise events (inotify) for files that the host has changed, and look at them anew. See [`api::notice`].

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use api::agent::{Change, RaiseEventsRequest, change};
use base::{Context, Result};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;

use crate::share::Shares;

/// The event of a time of modification that is set is that of a content that has changed; of both times, that of attributes.
const NOTE: TimeSpec = TimeSpec::new(api::notice::SECONDS, 0);

/// All of them, in order; what has gone meanwhile is left out.
pub fn raise(shares: &Shares, request: &RaiseEventsRequest) -> Result<()> {
    for change in &request.changes {
        let place = shares.open(&request.tag, &change.path);
        let raised = place.and_then(|place| one(&place, change).attempt(|| format!("tell of {}", change.path)));
        if let Err(e) = raised {
            log::debug!("{}", e.chain());
        }
    }
    Ok(())
}

fn one(place: &OwnedFd, change: &Change) -> nix::Result<()> {
    let itself = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let name = Path::new(OsStr::from_bytes(&change.name));
    let kind = change.kind.enum_value_or_default();
    if change.name.is_empty() {
        let follow = UtimensatFlags::FollowSymlink;
        return match kind {
            change::Kind::CONTENT => {
                utimensat(nix::fcntl::AT_FDCWD, &itself, &TimeSpec::UTIME_OMIT, &NOTE, follow)?;
                written(nix::fcntl::AT_FDCWD, &itself, OFlag::empty())
            }
            _ => utimensat(nix::fcntl::AT_FDCWD, &itself, &NOTE, &NOTE, follow),
        };
    }
    // Nothing but a name of this directory.
    if name.components().count() != 1 || change.name.contains(&b'/') {
        return Err(nix::Error::EINVAL);
    }
    let stay = UtimensatFlags::NoFollowSymlink;
    match kind {
        change::Kind::CONTENT => {
            utimensat(place, name, &TimeSpec::UTIME_OMIT, &NOTE, stay)?;
            written(place, name, OFlag::O_NOFOLLOW)
        }
        change::Kind::ATTRIBUTES => utimensat(place, name, &NOTE, &NOTE, stay),
        change::Kind::GONE => {
            // The kernel forgets the name when it asks and is told that there is none.
            let _ = fstatat(place, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            utimensat(
                nix::fcntl::AT_FDCWD,
                &itself,
                &NOTE,
                &NOTE,
                UtimensatFlags::FollowSymlink,
            )
        }
    }
}

/// Closes it after writing, as whoever has changed it did: watchers wait for that. The file server has been told not to open it so.
fn written<D: std::os::fd::AsFd>(place: D, name: &Path, more: OFlag) -> nix::Result<()> {
    let flags = if more.is_empty() {
        AtFlags::empty()
    } else {
        AtFlags::AT_SYMLINK_NOFOLLOW
    };
    let found = fstatat(place.as_fd(), name, flags)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Ok(());
    }
    let how = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | more;
    openat(place, name, how, Mode::empty()).map(drop)
}
