// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Files that are replaced whole, and directories that go away with their owner.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Context, Result};

/// Replaces `path` with `bytes` so that a reader sees the old or the new content, never a part; mode 0600.
///
/// It survives a crash of the process, not of the machine (no fsync): the state that we keep is void after a
/// reboot anyway.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    // Two threads may replace the same file.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(
        ".{}.{}.new",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let fresh = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file: File| file.write_all(bytes))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written.attempt(|| format!("write {}", path.display()))
}

/// Removes a directory tree; one that does not exist is fine. Never follows a symlink, never crosses a mount
/// on purpose: callers unmount first.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.attempt(|| format!("remove directory {}", path.display())),
    }
}

/// A directory that is removed with its content on drop, unless [`OwnedDir::keep`] is called.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    armed: bool,
}

impl OwnedDir {
    /// Creates `path` (mode 0711), which must not exist; missing parents are created and stay.
    pub fn create(path: &Path) -> Result<OwnedDir> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(|| format!("create directory {}", parent.display()))?;
        }
        fs::DirBuilder::new()
            .mode(0o711)
            .create(path)
            .attempt(|| format!("create directory {}", path.display()))?;
        Ok(OwnedDir {
            path: path.to_owned(),
            armed: true,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to `path`, where nothing may be; missing parents are created and stay. Errors: `Exists`; it is where it was.
    pub fn rename(&mut self, path: &Path) -> Result<()> {
        let what = || format!("move directory {} to {}", self.path.display(), path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(|| format!("create directory {}", parent.display()))?;
        }
        let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
        let cwd = nix::fcntl::AT_FDCWD;
        let moved = nix::fcntl::renameat2(cwd, &self.path, cwd, path, flags);
        moved.map_err(std::io::Error::from).attempt(what)?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// Leaves the directory to another owner.
    pub fn keep(mut self) -> PathBuf {
        self.armed = false;
        std::mem::take(&mut self.path)
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = remove_tree(&self.path)
        {
            log::warn!("{}", e.chain());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_the_old_content_or_the_new_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(replace(&dir.path().join("no/such"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_owned_directory_goes_unless_kept() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        let dir = OwnedDir::create(&path).unwrap();
        fs::write(dir.path().join("f"), b"").unwrap();
        assert_eq!(OwnedDir::create(&path).unwrap_err().kind(), crate::Kind::Exists);
        drop(dir);
        assert!(!path.exists());
        let mut dir = OwnedDir::create(&path).unwrap();
        let other = top.path().join("c/d");
        fs::create_dir_all(&other).unwrap();
        assert_eq!(dir.rename(&other).unwrap_err().kind(), crate::Kind::Exists);
        fs::remove_dir(&other).unwrap();
        dir.rename(&other).unwrap();
        assert!(other.exists() && !path.exists());
        drop(dir);
        assert!(!other.exists());
        OwnedDir::create(&path).unwrap().keep();
        assert!(path.exists());
    }
}
