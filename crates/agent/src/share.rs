// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Shared file systems of the host: where they are mounted, and what may be named in them. It does not know what they hold.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::{Context, Error, Kind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use crate::lock::lock;

/// Each share is mounted below, by its tag.
const PLACE: &str = "/run/kata/share";

/// The shares that are mounted.
#[derive(Debug, Default)]
pub struct Shares {
    /// Held while one is mounted, by threads that may block.
    mounted: Mutex<HashMap<String, Arc<Root>>>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    dir: OwnedFd,
}

impl Shares {
    /// Where the guest finds `path` of the share `tag`, which is mounted if it was not. Errors: `Invalid` for a path that would leave
    /// the share, `NotFound` when nothing is there.
    pub fn find(&self, tag: &str, path: &str) -> Result<PathBuf> {
        let relative = relative(path)?;
        self.root(tag)?
            .find(&relative)
            .attempt(|| format!("find {path:?} in share {tag}"))
    }

    /// What `path` of the share `tag` names, opened as a place only. Errors: as [`Shares::find`].
    pub fn open(&self, tag: &str, path: &str) -> Result<OwnedFd> {
        let relative = relative(path)?;
        self.root(tag)?
            .open(&relative)
            .attempt(|| format!("open {path:?} in share {tag}"))
    }

    /// Mounts the share `tag`, if it is not.
    pub fn mount(&self, tag: &str) -> Result<()> {
        self.root(tag).map(drop)
    }

    fn root(&self, tag: &str) -> Result<Arc<Root>> {
        base::id::check(tag).context(Kind::Invalid, || format!("use share {tag:?}"))?;
        let mut mounted = lock(&self.mounted);
        if let Some(root) = mounted.get(tag) {
            return Ok(Arc::clone(root));
        }
        let path = Path::new(PLACE).join(tag);
        let what = || format!("mount share {tag}");
        fs::create_dir_all(&path).attempt(what)?;
        mount(Some(tag), &path, Some("virtiofs"), MsFlags::empty(), None::<&str>).attempt(what)?;
        let root = Arc::new(Root::of(path)?);
        mounted.insert(tag.to_owned(), Arc::clone(&root));
        Ok(root)
    }
}

impl Root {
    /// A place only: the server of a copy would not know of a directory that is open.
    fn of(path: PathBuf) -> Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty()).attempt(|| format!("open {}", path.display()))?;
        Ok(Root { path, dir })
    }

    /// Symlinks are not followed: the host names things where they are.
    fn open(&self, relative: &Path) -> Result<OwnedFd> {
        let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(inside);
        let place = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        openat2(&self.dir, place, how).attempt(|| format!("open {}", relative.display()))
    }

    fn find(&self, relative: &Path) -> Result<PathBuf> {
        self.open(relative)?;
        Ok(self.path.join(relative))
    }
}

/// The path without `.`; empty is the share itself.
fn relative(path: &str) -> Result<PathBuf> {
    let parts = Path::new(path).components().map(|part| match part {
        Component::Normal(name) => Ok(Some(name)),
        Component::CurDir => Ok(None),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("path {path:?} leads out of its share"),
        )),
    });
    parts.filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_paths_below_the_share_are_taken() {
        for (given, plain) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("", ""), (".", ""), ("..a", "..a")] {
            assert_eq!(relative(given).unwrap(), Path::new(plain));
        }
        for bad in ["/a", "..", "a/../b", "a/.."] {
            assert_eq!(relative(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        for tag in ["", "..", "a/b"] {
            assert_eq!(
                Shares::default().find(tag, "a").unwrap_err().kind(),
                Kind::Invalid,
                "{tag}"
            );
        }
    }

    #[test]
    fn what_is_not_there_and_what_leads_out_is_refused() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("c1/rootfs")).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        symlink("/etc", top.path().join("out")).unwrap();
        let root = Root::of(top.path().into()).unwrap();
        for path in ["c1/rootfs", "file", ""] {
            assert_eq!(root.find(Path::new(path)).unwrap(), top.path().join(path));
        }
        assert_eq!(root.find(Path::new("c2")).unwrap_err().kind(), Kind::NotFound);
        assert!(root.find(Path::new("out/passwd")).is_err());
        assert!(root.find(Path::new("out")).is_err());
    }
}
