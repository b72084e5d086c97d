// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Directories of a share whose entries stay as the host made them, though the guest may write what is below.
//!
//! A snapshotter keeps a container's own files in one directory beside what it trusts, and an overlay needs both places of it in one mount.
//! A guest that was taken over could put an entry there which the host's kernel mounts later, or a link in place of a directory.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;

use crate::dirs::Dirs;
use crate::listing::{Listing, Listings};

/// A directory of this name in one that is in the root is fixed.
pub const NAME: &str = "layer";

/// Inode number of the root, by the protocol.
const ROOT: u64 = 1;

/// Any directory, but for those.
pub(crate) struct Fixed {
    files: PassthroughFs,
    known: Mutex<Known>,
    dirs: Dirs,
    listings: Listings,
    /// Where files are known by handle: what a request has removed. See [`Removed`].
    removed: Option<Arc<Removed>>,
}

/// Holds what was removed last until the guest has its answer: the host's file system frees what was in it when it is let go.
#[derive(Debug, Default)]
pub(crate) struct Removed(Mutex<Option<OwnedFd>>);

impl Removed {
    fn hold(&self, file: Option<OwnedFd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    /// What is held, if there is something.
    pub fn take(&self) -> Option<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the guest has looked up, and how often it has not forgotten it: its number is not another's until then.
#[derive(Default)]
struct Known {
    /// Directories and files in the root.
    first: HashMap<u64, u64>,
    fixed: HashMap<u64, u64>,
}

impl Known {
    /// It was looked up once more, by whatever name. False: it is not known.
    fn count(&mut self, inode: u64) -> bool {
        let mut found = false;
        for known in [&mut self.first, &mut self.fixed] {
            if let Some(times) = known.get_mut(&inode) {
                *times += 1;
                found = true;
            }
        }
        found
    }

    fn forget(&mut self, inode: u64, count: u64) {
        for known in [&mut self.first, &mut self.fixed] {
            if let Some(times) = known.get_mut(&inode) {
                *times = times.saturating_sub(count);
                if *times == 0 {
                    known.remove(&inode);
                }
            }
        }
    }
}

impl Fixed {
    /// All of `files`.
    pub fn new(files: PassthroughFs, removed: Option<Arc<Removed>>) -> Fixed {
        Fixed {
            files,
            known: Mutex::default(),
            dirs: Dirs::default(),
            listings: Listings::default(),
            removed,
        }
    }

    /// `files` would look the name up first, for a migration that does not happen here.
    fn remove(&self, ctx: Context, parent: u64, name: &CStr, how: UnlinkatFlags) -> io::Result<()> {
        self.free(parent)?;
        single(name)?;
        let Ok(dir) = self.dirs.get(&self.files, ctx, parent) else {
            // It says best why not.
            return match how {
                UnlinkatFlags::NoRemoveDir => self.files.unlink(ctx, parent, name),
                UnlinkatFlags::RemoveDir => self.files.rmdir(ctx, parent, name),
            };
        };
        let gone = self.removed.as_ref().map(|removed| {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            (removed, openat(&dir, name, flags, Mode::empty()).ok())
        });
        match unlinkat(&dir, name, how) {
            // The guest looks the directory up anew at this one only, and there may be another of its name.
            Err(Errno::ENOENT) if fstat(&dir)?.st_nlink == 0 => return Err(Errno::ESTALE.into()),
            removed => removed?,
        }
        if let Some((removed, file)) = gone {
            removed.hold(file);
        }
        Ok(())
    }

    fn let_go(&self) {
        self.dirs.clear();
        self.listings.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: `EPERM` if it is a fixed directory.
    fn free(&self, inode: u64) -> io::Result<()> {
        if self.known().fixed.contains_key(&inode) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(())
    }
}

/// What `files` takes for a name may be a path: what is in a fixed directory has one from outside. Errors: `EINVAL` if it is one.
fn single(name: &CStr) -> io::Result<()> {
    if name.to_bytes().contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// No number, no attributes.
fn unknown() -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: fuse::Attr::default(),
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}

/// What is `files`' alone. In brackets: inodes that must not be fixed directories, then names.
macro_rules! passed {
    ($($([$($free:ident),+ $(; $($single:ident),+)?])? fn $name:ident $(<$kind:ident: $bound:ident>)?
        ($($word:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name $(<$kind: $bound>)? (&self, $($word: $type),*) -> $answer {
            $($(self.free($free)?;)+ $($(single($single)?;)+)?)?
            self.files.$name($($word),*)
        })*
    };
}

type Opened = (Option<u64>, OpenOptions);

impl FileSystem for Fixed {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.let_go();
        self.files.init(capable)
    }

    fn destroy(&self) {
        self.let_go();
        self.files.destroy();
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        single(name)?;
        // Forgotten, neither a fixed directory nor the one that it is in must come back under a number that we do not know.
        if name == c".." {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        let entry = match self.files.lookup(ctx, parent, name) {
            // Removed since it was read: the guest is told the name alone.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && self.listings.taking() => return Ok(unknown()),
            found => found?,
        };
        let mut known = self.known();
        if known.count(entry.inode) {
            // `.`, or the same once more.
        } else if parent == ROOT {
            *known.first.entry(entry.inode).or_default() += 1;
        } else if name.to_bytes() == NAME.as_bytes() && known.first.contains_key(&parent) {
            *known.fixed.entry(entry.inode).or_default() += 1;
        }
        Ok(entry)
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        self.known().forget(inode, count);
        self.dirs.forget([inode].into_iter());
        self.files.forget(ctx, inode, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        let mut known = self.known();
        for (inode, count) in &requests {
            known.forget(*inode, *count);
        }
        drop(known);
        self.dirs.forget(requests.iter().map(|(inode, _)| *inode));
        self.files.batch_forget(ctx, requests);
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(ctx, parent, name, UnlinkatFlags::NoRemoveDir)
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(ctx, parent, name, UnlinkatFlags::RemoveDir)
    }

    fn readdir(&self, ctx: Context, inode: u64, handle: u64, size: u32, at: u64) -> io::Result<Listing> {
        self.listings.read(&self.files, ctx, (inode, handle), size, at)
    }

    fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.listings.close((inode, handle));
        self.files.releasedir(ctx, inode, flags, handle)
    }

    passed! {
        fn getattr(ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(fuse::Attr, Duration)>;
        [inode] fn setattr(ctx: Context, inode: u64, attr: fuse::SetattrIn, handle: Option<u64>, valid: SetattrValid)
            -> io::Result<(fuse::Attr, Duration)>;
        fn readlink(ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        [parent; name] fn symlink(ctx: Context, link: &CStr, parent: u64, name: &CStr, more: Extensions) -> io::Result<Entry>;
        [parent; name] fn mknod(ctx: Context, parent: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, more: Extensions)
            -> io::Result<Entry>;
        [parent; name] fn mkdir(ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, more: Extensions)
            -> io::Result<Entry>;
        [old, new; name, new_name] fn rename(ctx: Context, old: u64, name: &CStr, new: u64, new_name: &CStr, flags: u32)
            -> io::Result<()>;
        [parent; name] fn link(ctx: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry>;
        fn open(ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<Opened>;
        [parent; name] fn create(ctx: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32, umask: u32,
            more: Extensions) -> io::Result<(Entry, Option<u64>, OpenOptions)>;
        fn read<W: ZeroCopyWriter>(ctx: Context, inode: u64, handle: u64, to: W, size: u32, at: u64, owner: Option<u64>,
            flags: u32) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(ctx: Context, inode: u64, handle: u64, from: R, size: u32, at: u64,
            owner: Option<u64>, delayed: bool, kill_priv: bool, flags: u32) -> io::Result<usize>;
        fn flush(ctx: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fn fsync(ctx: Context, inode: u64, data: bool, handle: u64) -> io::Result<()>;
        fn fallocate(ctx: Context, inode: u64, handle: u64, mode: u32, at: u64, len: u64) -> io::Result<()>;
        fn release(ctx: Context, inode: u64, flags: u32, handle: u64, flush: bool, unlock: bool, owner: Option<u64>)
            -> io::Result<()>;
        fn statfs(ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        [inode] fn setxattr(ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32, more: SetxattrFlags)
            -> io::Result<()>;
        fn getxattr(ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        [inode] fn removexattr(ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        fn opendir(ctx: Context, inode: u64, flags: u32) -> io::Result<Opened>;
        fn fsyncdir(ctx: Context, inode: u64, data: bool, handle: u64) -> io::Result<()>;
        fn access(ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(ctx: Context, inode: u64, handle: u64, at: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(ctx: Context, from: u64, from_handle: u64, from_at: u64, to: u64, to_handle: u64, to_at: u64,
            len: u64, flags: u64) -> io::Result<usize>;
        fn syncfs(ctx: Context, inode: u64) -> io::Result<()>;
    }
}
