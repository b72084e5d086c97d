// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A directory of finished things: one directory per key, which is a hash over all that the thing was made of, and names
//! that are symbolic links to keys. It does not know what is in them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result, file};
use nix::fcntl::{Flock, FlockArg};

/// The name that is used when none is given.
pub const DEFAULT: &str = "default";
const LOCK: &str = ".lock";
/// Where a thing is written before it gets its key. Only the holder of the lock touches it.
const FRESH: &str = ".new";

/// A directory of things of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelf {
    dir: PathBuf,
    /// What is in it, for errors.
    noun: &'static str,
    /// What makes one.
    command: &'static str,
}

/// The shelf does not change while this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _lock: Flock<File>,
}

impl Shelf {
    /// The shelf in `dir`, which need not exist, with what `command` makes.
    pub(crate) fn at(dir: PathBuf, noun: &'static str, command: &'static str) -> Shelf {
        Shelf { dir, noun, command }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the thing with this name, key, or unambiguous start of a key. [`Kind::NotFound`], with what to do,
    /// if there is none.
    pub(crate) fn locate(&self, name: &str) -> Result<PathBuf> {
        let missing = || {
            let what = match name {
                DEFAULT => format!("no {}", self.noun),
                name => format!("no {} {name}", self.noun),
            };
            let reason = format!("{what} in {}: run `{}`", self.dir.display(), self.command);
            Error::new(Kind::NotFound, reason)
        };
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(missing());
        }
        match fs::canonicalize(self.dir.join(name)) {
            Ok(dir) => return Ok(dir),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).attempt(|| format!("open {} {name}", self.noun)),
        }
        let mut keys = self.keys()?.into_iter().filter(|key| key.starts_with(name));
        match (keys.next(), keys.next()) {
            (Some(key), None) => Ok(self.dir.join(key)),
            (Some(_), Some(_)) => Err(Error::new(
                Kind::Invalid,
                format!("several {}s start with {name}", self.noun),
            )),
            _ => Err(missing()),
        }
    }

    /// Removes the thing `key` with all its names.
    pub(crate) fn remove(&self, key: &str) -> Result<()> {
        let _lock = self.lock()?;
        self.remove_key(key)
    }

    /// Removes all; returns how many there were.
    pub(crate) fn remove_all(&self) -> Result<usize> {
        if !self.dir.exists() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let keys = self.keys()?;
        for key in &keys {
            self.remove_key(key)?;
        }
        Ok(keys.len())
    }

    fn remove_key(&self, key: &str) -> Result<()> {
        // The names go first: a name never points to half a thing.
        for (name, target) in self.names()? {
            if target == key {
                let path = self.dir.join(&name);
                fs::remove_file(&path).attempt(|| format!("remove {}", path.display()))?;
            }
        }
        file::remove_tree(&self.dir.join(key))
    }

    /// Waits until nobody else changes the shelf. What a killed holder left is removed.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.dir.join(LOCK);
        let tried = || format!("lock {}", path.display());
        fs::create_dir_all(&self.dir).attempt(|| format!("create directory {}", self.dir.display()))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .attempt(tried)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .attempt(tried)?;
        file::remove_tree(&self.dir.join(FRESH))?;
        Ok(Lock { _lock: lock })
    }

    /// Where the holder of the lock writes a new thing.
    pub(crate) fn fresh(&self, _lock: &Lock) -> Result<file::OwnedDir> {
        file::OwnedDir::create(&self.dir.join(FRESH))
    }

    /// Gives a finished thing its key, replacing a damaged one; returns where it is.
    pub(crate) fn adopt(&self, fresh: file::OwnedDir, key: &str, _lock: &Lock) -> Result<PathBuf> {
        let dir = self.dir.join(key);
        file::remove_tree(&dir)?;
        fs::rename(fresh.path(), &dir).attempt(|| format!("rename {} to {key}", fresh.path().display()))?;
        fresh.keep();
        Ok(dir)
    }

    /// Lets `name` mean the thing `key`.
    pub(crate) fn name(&self, name: &str, key: &str, _lock: &Lock) -> Result<()> {
        let fresh = self.dir.join(".name");
        let tried = || format!("name {} {key} {name}", self.noun);
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).attempt(tried),
            _ => {}
        }
        symlink(key, &fresh).attempt(tried)?;
        fs::rename(&fresh, self.dir.join(name)).attempt(tried)
    }

    /// All keys, sorted.
    pub(crate) fn keys(&self) -> Result<Vec<String>> {
        let entries = self.entries()?;
        Ok(entries.into_iter().filter(|name| is_key(name)).collect())
    }

    /// Names, each with the key that it means.
    pub(crate) fn names(&self) -> Result<Vec<(String, String)>> {
        let mut names = Vec::new();
        for name in self.entries()? {
            if let Ok(target) = fs::read_link(self.dir.join(&name))
                && let Some(key) = target.to_str()
            {
                names.push((name, key.to_owned()));
            }
        }
        Ok(names)
    }

    /// All keys, each with its directory and names.
    pub(crate) fn list(&self) -> Result<Vec<(String, PathBuf, Vec<String>)>> {
        let names = self.names()?;
        let row = |key: String| {
            let of_key = names.iter().filter(|(_, target)| *target == key);
            let of_key = of_key.map(|(name, _)| name.clone()).collect();
            let dir = self.dir.join(&key);
            (key, dir, of_key)
        };
        Ok(self.keys()?.into_iter().map(row).collect())
    }

    /// Everything in the directory that is not hidden, sorted.
    fn entries(&self) -> Result<Vec<String>> {
        let tried = || format!("list {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.attempt(tried)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.attempt(tried)?.file_name().into_string().unwrap_or_default();
            if !name.is_empty() && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Keys are hashes; anything else in the directory is a name or not ours.
pub(crate) fn is_key(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}
