// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directory that holds guest images: one directory per key, and names that are symbolic links to keys.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result, file};
use nix::fcntl::{Flock, FlockArg};

use crate::manifest::Manifest;

/// The uncompressed kernel within an image.
pub(crate) const KERNEL: &str = "vmlinux";
/// The initramfs within an image.
pub(crate) const INITRAMFS: &str = "initramfs.cpio";
/// What an image was made of.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The name that is used when none is given.
pub const DEFAULT: &str = "default";
const LOCK: &str = ".lock";
/// Where an image is written before it gets its name. Only the holder of the lock touches it.
const FRESH: &str = ".new";

/// A directory of guest images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
}

/// A kernel and an initramfs to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// The directory that holds all of it.
    pub dir: PathBuf,
    /// An uncompressed ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// An uncompressed cpio archive with the agent as `/init`.
    pub initramfs: PathBuf,
    /// What it was made of.
    pub manifest: Manifest,
}

impl GuestImage {
    fn at(dir: PathBuf) -> Result<GuestImage> {
        let manifest = Manifest::read(&dir)?;
        Ok(GuestImage {
            kernel: dir.join(KERNEL),
            initramfs: dir.join(INITRAMFS),
            dir,
            manifest,
        })
    }

    /// Checks that the files are those that were built; `thorough` reads all of them, otherwise sizes and times do.
    pub fn check(&self, thorough: bool) -> Result<()> {
        for output in &self.manifest.outputs {
            output.check(&self.dir, thorough)?;
        }
        Ok(())
    }
}

impl Store {
    /// The store of this machine: `$KATA_GUEST_DIR`, or `/var/lib/kata/guest`. It need not exist.
    pub fn open() -> Store {
        let dir = std::env::var_os("KATA_GUEST_DIR").filter(|dir| !dir.is_empty());
        Store::at(dir.map_or_else(|| "/var/lib/kata/guest".into(), PathBuf::from))
    }

    /// A store elsewhere.
    pub fn at(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image to use when none is named, seen to be intact at a glance. [`Kind::NotFound`], with what to do, if
    /// there is none.
    pub fn default(&self) -> Result<GuestImage> {
        self.image(DEFAULT)
    }

    /// The image with this name, key, or unambiguous start of a key, seen to be intact at a glance.
    pub fn image(&self, name: &str) -> Result<GuestImage> {
        let image = self.find(name)?;
        image.check(false)?;
        Ok(image)
    }

    /// As [`Store::image`], without a look at the files.
    pub fn find(&self, name: &str) -> Result<GuestImage> {
        let missing = || {
            let what = match name {
                DEFAULT => "no guest image".to_owned(),
                name => format!("no guest image {name}"),
            };
            let hint = "run `kata guest build`";
            Error::new(Kind::NotFound, format!("{what} in {}: {hint}", self.dir.display()))
        };
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(missing());
        }
        match fs::canonicalize(self.dir.join(name)) {
            Ok(dir) => return GuestImage::at(dir),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).attempt(|| format!("open guest image {name}")),
        }
        let mut keys = self.keys()?.into_iter().filter(|key| key.starts_with(name));
        match (keys.next(), keys.next()) {
            (Some(key), None) => GuestImage::at(self.dir.join(key)),
            (Some(_), Some(_)) => Err(Error::new(
                Kind::Invalid,
                format!("several guest images start with {name}"),
            )),
            _ => Err(missing()),
        }
    }

    /// All images that can be read, by key, each with its names.
    pub fn list(&self) -> Result<Vec<(GuestImage, Vec<String>)>> {
        let names = self.names()?;
        let mut images = Vec::new();
        for key in self.keys()? {
            let of_key = names.iter().filter(|(_, target)| *target == key);
            let of_key = of_key.map(|(name, _)| name.clone()).collect();
            match GuestImage::at(self.dir.join(&key)) {
                Ok(image) => images.push((image, of_key)),
                Err(e) => log::warn!("skip guest image {key}: {}", e.chain()),
            }
        }
        Ok(images)
    }

    /// Removes one image, by name or key, with all its names.
    pub fn remove(&self, name: &str) -> Result<()> {
        let key = match self.find(name) {
            Ok(image) => image.manifest.key,
            // One whose manifest is broken can still be removed by its key.
            Err(_) if self.keys()?.iter().any(|key| key == name) => name.to_owned(),
            Err(e) => return Err(e),
        };
        let _lock = self.lock()?;
        self.remove_key(&key)
    }

    /// Removes every image; returns how many there were.
    pub fn remove_all(&self) -> Result<usize> {
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
        // The names go first: a name never points to half an image.
        for (name, target) in self.names()? {
            if target == key {
                let path = self.dir.join(&name);
                fs::remove_file(&path).attempt(|| format!("remove {}", path.display()))?;
            }
        }
        file::remove_tree(&self.dir.join(key))
    }

    /// Waits until nobody else changes the store. What a killed holder left is removed.
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

    /// Where the holder of the lock writes a new image.
    pub(crate) fn fresh(&self, _lock: &Lock) -> Result<file::OwnedDir> {
        file::OwnedDir::create(&self.dir.join(FRESH))
    }

    /// Gives a finished image its key, replacing a damaged one.
    pub(crate) fn adopt(&self, fresh: file::OwnedDir, key: &str, _lock: &Lock) -> Result<GuestImage> {
        let dir = self.dir.join(key);
        file::remove_tree(&dir)?;
        fs::rename(fresh.path(), &dir).attempt(|| format!("rename {} to {key}", fresh.path().display()))?;
        fresh.keep();
        GuestImage::at(dir)
    }

    /// Lets `name` mean the image `key`.
    pub(crate) fn name(&self, name: &str, key: &str, _lock: &Lock) -> Result<()> {
        let fresh = self.dir.join(".name");
        let tried = || format!("name guest image {key} {name}");
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).attempt(tried),
            _ => {}
        }
        symlink(key, &fresh).attempt(tried)?;
        fs::rename(&fresh, self.dir.join(name)).attempt(tried)
    }

    fn keys(&self) -> Result<Vec<String>> {
        let entries = self.entries()?;
        Ok(entries.into_iter().filter(|name| is_key(name)).collect())
    }

    /// Names, each with the key that it means.
    fn names(&self) -> Result<Vec<(String, String)>> {
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

/// The store does not change while this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _lock: Flock<File>,
}

/// Keys are hashes; anything else in the directory is a name or not ours.
pub(crate) fn is_key(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}
