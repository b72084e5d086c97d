// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A stack of layer directories in overlayfs format, seen as the one tree that it makes: whiteouts (character
//! devices 0/0) hide, opaque directories (`trusted.overlay.opaque`) cut, symlinks resolve inside the tree.
//!
//! The walk opens one component at a time below descriptors and follows no symlink by the kernel, so neither an
//! absolute symlink nor `..` leads out. It changes nothing.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use base::{Context, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use crate::attributes::xattr_value;

/// What overlayfs marks a directory with that hides those below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// As the kernel (path_resolution(7)).
const SYMLINKS: usize = 40;

/// Layers, the topmost first.
#[derive(Debug)]
pub struct Stack {
    root: Place,
}

/// A directory of the tree: the directories of the layers that make it, topmost first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) layers: Vec<(usize, Rc<OwnedFd>)>,
}

impl Place {
    /// The directory of the layer `index`, where that has one.
    pub(crate) fn of_layer(&self, index: usize) -> Option<&Rc<OwnedFd>> {
        self.layers.iter().find(|(layer, _)| *layer == index).map(|(_, fd)| fd)
    }
}

/// What a name leads to.
#[derive(Debug)]
pub(crate) enum Node {
    Absent,
    Directory(Place),
    Symlink(OsString),
    /// Anything else: in which layer, in which directory of it.
    Leaf(usize, Rc<OwnedFd>),
}

/// Where a path leads: components without symlinks and what is there. Below a missing component everything is
/// missing.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) node: Node,
}

pub(crate) fn stat(dir: &OwnedFd, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// Opens a directory below `dir`, never through a symlink.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// A path by which calls that know no descriptors reach an open file or an entry of an open directory.
pub(crate) fn by_fd(fd: &impl AsRawFd, name: Option<&OsStr>) -> PathBuf {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match name {
        Some(name) => path.join(name),
        None => path,
    }
}

impl Stack {
    /// Opens the layers' directories, topmost first.
    pub fn open(layers: &[PathBuf]) -> Result<Stack> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut root = Place::default();
        for (index, layer) in layers.iter().enumerate() {
            let fd = open(layer, flags, Mode::empty()).attempt(|| format!("open directory {}", layer.display()))?;
            root.layers.push((index, Rc::new(fd)));
        }
        Ok(Stack { root })
    }

    pub(crate) fn root(&self) -> &Place {
        &self.root
    }

    /// One name in one directory.
    pub(crate) fn child(&self, place: &Place, name: &OsStr) -> Result<Node> {
        let tried = || format!("look at {}", name.display());
        let mut below = Place::default();
        for (layer, dir) in &place.layers {
            let Some(stat) = stat(dir, name).attempt(tried)? else {
                continue;
            };
            if is_whiteout(&stat) {
                break;
            }
            match kind_of(&stat) {
                SFlag::S_IFDIR => {
                    let fd = open_dir(dir.as_fd(), name).attempt(tried)?;
                    let opaque = xattr_value(&fd, None, OsStr::new(OPAQUE)).ok().flatten();
                    below.layers.push((*layer, Rc::new(fd)));
                    if opaque.as_deref() == Some(b"y") {
                        break;
                    }
                }
                // A file below a directory of the same name is hidden by it.
                _ if !below.layers.is_empty() => break,
                SFlag::S_IFLNK => return readlinkat(dir, name).attempt(tried).map(Node::Symlink),
                _ => return Ok(Node::Leaf(*layer, dir.clone())),
            }
        }
        Ok(if below.layers.is_empty() {
            Node::Absent
        } else {
            Node::Directory(below)
        })
    }

    /// The directory of a path that has no symlinks in it; of no layer where there is none.
    pub(crate) fn plain(&self, path: &Path) -> Result<Place> {
        let mut place = self.root.clone();
        for name in path {
            place = match self.child(&place, name)? {
                Node::Directory(next) => next,
                _ => Place::default(),
            };
        }
        Ok(place)
    }

    /// Follows `path` from the root of the tree; its last component only with `last`.
    /// Errors: `Invalid` when a file stands where a directory must be, or for a loop of symlinks.
    pub(crate) fn find(&self, path: &Path, last: bool) -> Result<Found> {
        let wrong = |why: &str| Error::new(Kind::Invalid, format!("resolve {} in the image: {why}", path.display()));
        let mut todo: VecDeque<OsString> = names(path);
        let mut done = PathBuf::new();
        let mut here = self.root.clone();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                here = self.plain(&done)?;
                continue;
            }
            match self.child(&here, &name)? {
                Node::Symlink(target) if last || !todo.is_empty() => {
                    links += 1;
                    if links > SYMLINKS {
                        return Err(wrong("too many symbolic links"));
                    }
                    let target = Path::new(&target);
                    if target.is_absolute() {
                        done = PathBuf::new();
                        here = self.root.clone();
                    }
                    for name in names(target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                Node::Directory(place) => {
                    done.push(&name);
                    here = place;
                }
                Node::Absent => {
                    done.push(&name);
                    here = Place::default();
                    if todo.is_empty() {
                        return Ok(Found {
                            path: done,
                            node: Node::Absent,
                        });
                    }
                }
                leaf => {
                    done.push(&name);
                    if todo.is_empty() {
                        return Ok(Found { path: done, node: leaf });
                    }
                    return Err(wrong(&format!("{} is not a directory", done.display())));
                }
            }
        }
        let node = if here.layers.is_empty() {
            Node::Absent
        } else {
            Node::Directory(here)
        };
        Ok(Found { path: done, node })
    }

    /// The content of a regular file, at most `limit` bytes; None where there is none.
    /// Errors: `Invalid` when it is larger or not a regular file.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let found = self.find(path, true)?;
        let wrong = |why: &str| {
            Err(Error::new(
                Kind::Invalid,
                format!("read {} in the image: {why}", path.display()),
            ))
        };
        let dir = match found.node {
            Node::Absent => return Ok(None),
            Node::Leaf(_, dir) => dir,
            _ => return wrong("not a regular file"),
        };
        let name = found.path.file_name().unwrap_or_default();
        let tried = || format!("read {} in the image", path.display());
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if stat(&dir, name)
            .attempt(tried)?
            .is_none_or(|stat| kind_of(&stat) != SFlag::S_IFREG)
        {
            return wrong("not a regular file");
        }
        let file = File::from(openat(&dir, name, flags, Mode::empty()).attempt(tried)?);
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).attempt(tried)?;
        if content.len() as u64 > limit {
            return wrong(&format!("larger than {limit} bytes"));
        }
        Ok(Some(content))
    }
}

/// The components that matter; `..` stays.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn layers() -> (tempfile::TempDir, Stack) {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for dir in ["low/usr/lib", "low/etc", "low/gone", "high/etc", "high/usr"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        symlink("usr/lib", path("low/lib")).unwrap();
        symlink("../../../../etc/passwd", path("low/usr/lib/up")).unwrap();
        symlink("/etc", path("low/usr/abs")).unwrap();
        symlink("loop", path("low/loop")).unwrap();
        fs::write(path("low/etc/passwd"), "low").unwrap();
        fs::write(path("low/etc/group"), "low").unwrap();
        fs::write(path("high/etc/passwd"), "high").unwrap();
        fs::write(path("high/gone"), "a file over a directory").unwrap();
        let stack = Stack::open(&[path("high"), path("low")]).unwrap();
        (top, stack)
    }

    #[test]
    fn upper_files_hide_lower_ones_and_symlinks_stay_inside() {
        let (_top, stack) = layers();
        let read = |path: &str| {
            stack
                .read(Path::new(path), 100)
                .unwrap()
                .map(|b| String::from_utf8(b).unwrap())
        };
        assert_eq!(read("/etc/passwd").as_deref(), Some("high"));
        assert_eq!(read("etc/group").as_deref(), Some("low"));
        assert_eq!(read("/lib/up").as_deref(), Some("high"));
        assert_eq!(read("/usr/abs/../etc/group").as_deref(), Some("low"));
        assert_eq!(read("/no/such"), None);
        assert_eq!(
            stack.find(Path::new("lib/new/x"), false).unwrap().path,
            Path::new("usr/lib/new/x")
        );
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let (_top, stack) = layers();
        for bad in ["/loop", "/loop/x", "/gone/x", "/etc"] {
            assert_eq!(
                stack.read(Path::new(bad), 100).unwrap_err().kind(),
                Kind::Invalid,
                "{bad}"
            );
        }
        assert!(
            stack
                .read(Path::new("/etc/passwd"), 2)
                .unwrap_err()
                .chain()
                .contains("larger")
        );
    }
}
