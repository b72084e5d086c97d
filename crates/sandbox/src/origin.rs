// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where the paths of a bundle are looked up: in the mount namespace of whoever creates the container. That of the monitor was the same
//! when the monitor began, but engines keep their stores from other namespaces (private mounts): what they have mounted there since,
//! only they see.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};

use crate::sys;

/// See the module.
#[derive(Debug, Default)]
pub struct Origin(Option<Elsewhere>);

#[derive(Debug)]
struct Elsewhere {
    mounts: File,
    root: File,
}

impl Origin {
    /// That of the process `pid`, as it is now.
    pub fn of(pid: i32) -> Result<Origin> {
        let open = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            File::open(&path).attempt(|| format!("open {path}"))
        };
        Ok(Origin(Some(Elsewhere {
            mounts: open("ns/mnt")?,
            root: open("root")?,
        })))
    }

    /// A copy of the mount at `path`, with those below if `recursive`, to be mounted anywhere. What the host mounts there later appears in
    /// it; nothing that is done to it is seen there.
    pub fn tree(&self, path: &Path, recursive: bool) -> Result<OwnedFd> {
        let what = || format!("look at {}", path.display());
        let name = CString::new(path.as_os_str().as_bytes()).context(Kind::Invalid, what)?;
        let copy = || sys::copy_tree(&name, recursive);
        let tree = match &self.0 {
            None => copy().attempt(what),
            Some(there) => there.visit(copy).attempt(what),
        }?;
        sys::follow(tree.as_fd()).attempt(what)?;
        Ok(tree)
    }
}

impl Elsewhere {
    /// A thread can be in another mount namespace than its process.
    fn visit<T: Send>(&self, look: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let enter = || {
            let what = || "enter the mount namespace of the creator".to_owned();
            unshare(CloneFlags::CLONE_FS).attempt(what)?;
            setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS).attempt(what)?;
            fchdir(&self.root).and_then(|()| chroot(".")).attempt(what)
        };
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                enter()?;
                look().attempt(|| "copy the mount".into())
            });
            let lost = || Err(Error::new(Kind::Bug, "the thread that looks has ended"));
            visit.join().unwrap_or_else(|_| lost())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::share::isolate;

    #[test]
    fn paths_are_looked_up_where_their_owner_is() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("dir");
        fs::create_dir(&dir).unwrap();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let there = dir.clone();
        let owner = std::thread::spawn(move || {
            isolate().unwrap();
            let none = None::<&str>;
            mount(Some("t"), &there, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            fs::write(there.join("file"), "theirs").unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            ended.recv().unwrap();
        });
        let origin = Origin::of(told.recv().unwrap()).unwrap();
        let seen = |origin: &Origin| {
            let tree = origin.tree(&dir, true).unwrap();
            let file = nix::fcntl::openat(
                &tree,
                "file",
                nix::fcntl::OFlag::O_RDONLY,
                nix::sys::stat::Mode::empty(),
            );
            file.map(|file| io::read_to_string(File::from(file)).unwrap())
        };
        assert_eq!(seen(&origin).unwrap(), "theirs");
        assert!(seen(&Origin::default()).is_err());
        let missing = origin.tree(&dir.join("none"), false).unwrap_err();
        assert!(missing.chain().contains("none"), "{}", missing.chain());
        end.send(()).unwrap();
        owner.join().unwrap();
    }
}
