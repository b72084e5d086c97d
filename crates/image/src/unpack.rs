// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Makes one layer's archive into a directory in overlayfs format, seen from the layers below it: OCI whiteouts
//! become character devices 0/0 and opaque marks, parents that only lower layers have are copied with their
//! attributes, and hard links to lower files copy those up.
//!
//! The archive is untrusted: names with `..` are refused, parents are resolved inside the tree by [`Stack`], and
//! every change is made by name below an open directory of the new layer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use base::{Context, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::attributes::{Attributes, set_xattr};
use crate::job::Cancel;
use crate::stack::{self, Node, OPAQUE, Place, Stack, by_fd, stat};
use crate::tarball::{self, Entries, Entry};

/// Index of the new layer in the stack.
const NEW: usize = 0;
/// Runs of zeros of this many bytes at such offsets become holes.
const HOLE: usize = 4096;

/// Unpacks the archive into the empty directory `target`; `below` are the lower layers' directories, topmost
/// first. Reads `archive` to the end of the tar stream, not further.
///
/// Errors: `Invalid` for a broken or hostile archive, `Gone` when cancelled, `Io` (a full disk) and `Denied`.
pub fn unpack(archive: impl Read, target: &Path, below: &[PathBuf], cancel: &Cancel) -> Result<()> {
    let mut layers = vec![target.to_owned()];
    layers.extend_from_slice(below);
    let mut layer = Layer {
        stack: Stack::open(&layers)?,
        parent: None,
        directories: Vec::new(),
    };
    layer.inherit_root()?;
    let mut entries = Entries::new(archive);
    while let Some(entry) = entries.advance().attempt(|| "read the layer's archive".into())? {
        cancel.check()?;
        layer.add(&entry, &mut entries)?;
    }
    layer.finish()
}

struct Layer {
    stack: Stack,
    /// The last entry's parent as it was written, and its directory: entries of a directory come in a row.
    parent: Option<(PathBuf, PathBuf, Place)>,
    /// Their times are set last: each new entry changes them.
    directories: Vec<(PathBuf, Attributes)>,
}

fn hostile(entry: &Entry, why: &str) -> Error {
    let path = OsStr::from_bytes(&entry.path).display();
    Error::new(Kind::Invalid, format!("layer entry {path}: {why}"))
}

/// The components of a path in the archive. Errors: `Invalid` with `..` in it.
fn checked(path: &[u8]) -> Option<PathBuf> {
    let mut names = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => names.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return None,
        }
    }
    Some(names)
}

impl Layer {
    /// The root has the attributes of the root below until the archive says otherwise.
    fn inherit_root(&mut self) -> Result<()> {
        let root = self.stack.root().clone();
        let Some((_, lower)) = root.layers.get(1) else {
            return Attributes::fresh().apply(&root.layers[NEW].1, None);
        };
        let attributes = Attributes::of(lower, None)?;
        attributes.apply(&root.layers[NEW].1, None)?;
        self.directories.push((PathBuf::new(), attributes));
        Ok(())
    }

    fn add<R: Read>(&mut self, entry: &Entry, data: &mut Entries<R>) -> Result<()> {
        let path = checked(&entry.path).ok_or_else(|| hostile(entry, "its name leaves the tree"))?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            if entry.kind != tarball::Kind::Directory {
                return Err(hostile(entry, "the root must be a directory"));
            }
            let attributes = Attributes::from(entry);
            attributes.apply(&self.stack.root().layers[NEW].1, None)?;
            self.directories.push((PathBuf::new(), attributes));
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.hide(entry, parent, hidden);
        }
        let (parent, place) = self.directory(parent)?;
        let dir = new_dir(&place).clone();
        let tried = || format!("unpack {}", path.display());
        if let tarball::Kind::HardLink(target) = &entry.kind {
            return self.link(entry, target, &dir, &parent.join(&name));
        }
        let old = stat(&dir, &name).attempt(tried)?;
        let attributes = Attributes::from(entry);
        if entry.kind == tarball::Kind::Directory {
            match &old {
                Some(old) if stack::kind_of(old) == SFlag::S_IFDIR => {}
                other => {
                    if other.is_some() {
                        self.remove(&dir, &name)?;
                    }
                    mkdirat(&dir, name.as_os_str(), Mode::S_IRWXU).attempt(tried)?;
                    if other.is_some() {
                        // It replaces what this layer hid or made here: nothing from below shows through.
                        opaque(&dir, Some(&name)).attempt(tried)?;
                    }
                }
            }
            let fd = stack::open_dir(dir.as_fd(), &name).attempt(tried)?;
            attributes.apply(&fd, None).attempt(tried)?;
            self.directories.push((parent.join(&name), attributes));
            return Ok(());
        }
        if old.is_some() {
            self.remove(&dir, &name)?;
        }
        match &entry.kind {
            tarball::Kind::File => {
                let file = create(&dir, &name).attempt(tried)?;
                write(&file, entry.size, data).attempt(tried)?;
                return attributes.apply(&file, None).attempt(tried);
            }
            tarball::Kind::Symlink(target) => {
                let target = OsString::from_vec(target.clone());
                symlinkat(target.as_os_str(), &dir, name.as_os_str()).attempt(tried)?;
            }
            tarball::Kind::Character(major, minor) => {
                let device = makedev(u64::from(*major), u64::from(*minor));
                mknodat(&dir, name.as_os_str(), SFlag::S_IFCHR, Mode::S_IRWXU, device).attempt(tried)?;
            }
            tarball::Kind::Block(major, minor) => {
                let device = makedev(u64::from(*major), u64::from(*minor));
                mknodat(&dir, name.as_os_str(), SFlag::S_IFBLK, Mode::S_IRWXU, device).attempt(tried)?;
            }
            tarball::Kind::Fifo => {
                mknodat(&dir, name.as_os_str(), SFlag::S_IFIFO, Mode::S_IRWXU, 0).attempt(tried)?;
            }
            tarball::Kind::Directory | tarball::Kind::HardLink(_) => {}
        }
        attributes.apply(&dir, Some(&name)).attempt(tried)
    }

    /// The directory at `path` of the tree, made in the new layer where only lower layers, or none, have it.
    fn directory(&mut self, path: &Path) -> Result<(PathBuf, Place)> {
        if let Some((written, real, place)) = &self.parent
            && written == path
        {
            return Ok((real.clone(), place.clone()));
        }
        let found = self.stack.find(path, true)?;
        if matches!(found.node, Node::Leaf(..) | Node::Symlink(_)) {
            let why = format!("unpack below {}: it is not a directory", path.display());
            return Err(Error::new(Kind::Invalid, why));
        }
        let mut place = self.stack.root().clone();
        let mut real = PathBuf::new();
        for name in &found.path {
            let node = self.stack.child(&place, name)?;
            real.push(name);
            let tried = || format!("create directory {} in the layer", real.display());
            place = match node {
                Node::Directory(next) if next.of_layer(NEW).is_some() => next,
                Node::Directory(mut next) => {
                    let attributes = Attributes::of(&next.layers[0].1, None)?;
                    let fd = make_dir(new_dir(&place), name).attempt(tried)?;
                    attributes.apply(&fd, None).attempt(tried)?;
                    self.directories.push((real.clone(), attributes));
                    next.layers.insert(0, (NEW, Rc::new(fd)));
                    next
                }
                _ => {
                    let dir = new_dir(&place);
                    let hidden = stat(dir, name).attempt(tried)?.is_some();
                    if hidden {
                        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).attempt(tried)?;
                    }
                    let fd = make_dir(dir, name).attempt(tried)?;
                    Attributes::fresh().apply(&fd, None).attempt(tried)?;
                    if hidden {
                        opaque(&fd, None).attempt(tried)?;
                    }
                    Place {
                        layers: vec![(NEW, Rc::new(fd))],
                    }
                }
            };
        }
        self.parent = Some((path.to_owned(), real.clone(), place.clone()));
        Ok((real, place))
    }

    /// Whiteouts (image-spec, "Whiteouts"): they hide what lower layers have, never what this layer has, in
    /// whatever order.
    fn hide(&mut self, entry: &Entry, parent: &Path, name: &[u8]) -> Result<()> {
        let found = self.stack.find(parent, true)?;
        if !matches!(found.node, Node::Directory(_)) {
            return Ok(());
        }
        let tried = || format!("hide {} in the layer", OsStr::from_bytes(&entry.path).display());
        if name == b".wh..opq" {
            let (real, place) = self.directory(parent)?;
            if real.as_os_str().is_empty() {
                return self.hide_all(&place);
            }
            self.parent = None;
            return opaque(new_dir(&place), None).attempt(tried);
        }
        if name.starts_with(b".wh.") {
            // Other marks of aufs mean nothing here.
            return Ok(());
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(hostile(entry, "it hides no name"));
        }
        let (_, place) = self.directory(parent)?;
        self.hide_one(&place, OsStr::from_bytes(name)).attempt(tried)
    }

    fn hide_one(&mut self, place: &Place, name: &OsStr) -> Result<()> {
        let dir = new_dir(place);
        let tried = || format!("hide {}", name.display());
        match stat(dir, name).attempt(tried)? {
            Some(old) if stack::kind_of(&old) == SFlag::S_IFDIR => {
                self.parent = None;
                opaque(dir, Some(name)).attempt(tried)
            }
            Some(_) => Ok(()),
            None if matches!(self.stack.child(place, name)?, Node::Absent) => Ok(()),
            None => mknodat(&**dir, name, SFlag::S_IFCHR, Mode::empty(), 0).attempt(tried),
        }
    }

    /// An opaque root: overlayfs does not look for the mark there, so each name is hidden.
    fn hide_all(&mut self, root: &Place) -> Result<()> {
        for (_, dir) in root.layers.iter().skip(1) {
            let tried = || "read the root directory of a layer".to_owned();
            for found in std::fs::read_dir(by_fd(&**dir, None)).attempt(tried)? {
                self.hide_one(root, &found.attempt(tried)?.file_name())?;
            }
        }
        Ok(())
    }

    fn link(&mut self, entry: &Entry, target: &[u8], dir: &OwnedFd, path: &Path) -> Result<()> {
        let target = checked(target).ok_or_else(|| hostile(entry, "it links to a name that leaves the tree"))?;
        let tried = || format!("link {} to {}", path.display(), target.display());
        let parent = self.stack.find(target.parent().unwrap_or(Path::new("")), true)?;
        let name = target.file_name().unwrap_or_default();
        let node = match &parent.node {
            Node::Directory(place) => self.stack.child(place, name)?,
            _ => Node::Absent,
        };
        if parent.path.join(name) == path {
            return Ok(());
        }
        // A symlink can have several names too.
        let source = match (&node, &parent.node) {
            (Node::Leaf(NEW, source), _) => source.clone(),
            (Node::Leaf(..) | Node::Symlink(_), Node::Directory(place)) => {
                let (_, own) = self.directory(&parent.path)?;
                let own = new_dir(&own).clone();
                if stat(&own, name).attempt(tried)?.is_none() {
                    let lower = place
                        .layers
                        .iter()
                        .find(|(_, fd)| matches!(stat(fd, name), Ok(Some(_))));
                    let (_, lower) = lower.ok_or_else(|| hostile(entry, "it links to nothing"))?;
                    copy_up(lower, &own, name).attempt(tried)?;
                }
                own
            }
            (Node::Directory(_), _) => return Err(hostile(entry, "it links to a directory")),
            _ => {
                return Err(hostile(
                    entry,
                    &format!("it links to {}, which is not there", target.display()),
                ));
            }
        };
        let new = path.file_name().unwrap_or_default();
        if stat(dir, new).attempt(tried)?.is_some() {
            self.remove(dir, new)?;
        }
        linkat(&*source, name, dir, new, AtFlags::empty()).attempt(tried)
    }

    /// Removes what this layer made under a name, whole trees too.
    fn remove(&mut self, dir: &OwnedFd, name: &OsStr) -> Result<()> {
        let tried = || format!("replace {}", name.display());
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                self.parent = None;
                std::fs::remove_dir_all(by_fd(dir, Some(name))).attempt(tried)
            }
            other => other.attempt(tried),
        }
    }

    fn finish(self) -> Result<()> {
        for (path, attributes) in self.directories.iter().rev() {
            // It may have been replaced since; its successor stands later in the list and came first here.
            let place = self.stack.plain(path)?;
            if let Some(fd) = place.of_layer(NEW) {
                attributes
                    .set_times(fd)
                    .attempt(|| format!("set times of {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The new layer's directory of a place that [`Layer::directory`] gave.
fn new_dir(place: &Place) -> &Rc<OwnedFd> {
    &place.layers[0].1
}

/// Hides what lower layers have in a directory.
fn opaque(dir: &OwnedFd, name: Option<&OsStr>) -> std::io::Result<()> {
    set_xattr(dir, name, OsStr::new(OPAQUE), b"y")
}

fn make_dir(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    mkdirat(dir, name, Mode::S_IRWXU)?;
    stack::open_dir(dir.as_fd(), name)
}

fn create(dir: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

/// Copies the current file's bytes; holes and runs of zeros stay holes.
fn write<R: Read>(file: &File, size: u64, data: &mut Entries<R>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while let Some((offset, n)) = data.read(&mut buffer)? {
        let mut start = 0;
        while start < n {
            let to_boundary = HOLE - usize::try_from((offset + start as u64) % HOLE as u64).unwrap_or(0);
            let end = (start + to_boundary).min(n);
            let piece = &buffer[start..end];
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all_at(piece, offset + start as u64)?;
            }
            start = end;
        }
    }
    file.set_len(size)
}

/// Copies a file, a symlink, a device or a pipe of a lower layer with its attributes.
fn copy_up(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> Result<()> {
    let tried = || format!("copy up {}", name.display());
    let old = stat(from, name)
        .attempt(tried)?
        .ok_or_else(|| Error::new(Kind::NotFound, tried()))?;
    let attributes = Attributes::of(from, Some(name))?;
    match stack::kind_of(&old) {
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut source = File::from(openat(from, name, flags, Mode::empty()).attempt(tried)?);
            let mut copy = create(to, name).attempt(tried)?;
            std::io::copy(&mut source, &mut copy).attempt(tried)?;
            return attributes.apply(&copy, None);
        }
        SFlag::S_IFLNK => {
            let target = nix::fcntl::readlinkat(from, name).attempt(tried)?;
            symlinkat(target.as_os_str(), to, name).attempt(tried)?;
        }
        kind => mknodat(to, name, kind, Mode::S_IRWXU, old.st_rdev).attempt(tried)?,
    }
    attributes.apply(to, Some(name))
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod tests;
