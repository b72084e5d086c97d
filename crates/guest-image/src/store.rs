// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directory that holds guest images.

use std::path::{Path, PathBuf};

use base::{Result, file};

use crate::manifest::Manifest;
pub use crate::shelf::DEFAULT;
use crate::shelf::{Lock, Shelf};

/// The uncompressed kernel within an image.
pub(crate) const KERNEL: &str = "vmlinux";
/// The initramfs within an image.
pub(crate) const INITRAMFS: &str = "initramfs.cpio";
/// What an image was made of.
pub(crate) const MANIFEST: &str = "manifest.json";
const COMMAND: &str = "kata guest build";

/// A directory of guest images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    shelf: Shelf,
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
            output.check(&self.dir, thorough, COMMAND)?;
        }
        Ok(())
    }
}

impl Store {
    /// The store in a directory, which need not exist.
    pub fn at(dir: impl Into<PathBuf>) -> Store {
        Store {
            shelf: Shelf::at(dir.into(), "guest image", COMMAND),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.shelf.dir()
    }

    /// The image to use when none is named, seen to be intact at a glance. [`base::Kind::NotFound`], with what to do, if
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
        GuestImage::at(self.shelf.locate(name)?)
    }

    /// All images that can be read, by key, each with its names.
    pub fn list(&self) -> Result<Vec<(GuestImage, Vec<String>)>> {
        let mut images = Vec::new();
        for (key, dir, names) in self.shelf.list()? {
            match GuestImage::at(dir) {
                Ok(image) => images.push((image, names)),
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
            Err(_) if self.shelf.keys()?.iter().any(|key| key == name) => name.to_owned(),
            Err(e) => return Err(e),
        };
        self.shelf.remove(&key)
    }

    /// Removes every image; returns how many there were.
    pub fn remove_all(&self) -> Result<usize> {
        self.shelf.remove_all()
    }

    /// Waits until nobody else changes the store. What a killed holder left is removed.
    pub(crate) fn lock(&self) -> Result<Lock> {
        self.shelf.lock()
    }

    /// Where the holder of the lock writes a new image.
    pub(crate) fn fresh(&self, lock: &Lock) -> Result<file::OwnedDir> {
        self.shelf.fresh(lock)
    }

    /// Gives a finished image its key, replacing a damaged one.
    pub(crate) fn adopt(&self, fresh: file::OwnedDir, key: &str, lock: &Lock) -> Result<GuestImage> {
        GuestImage::at(self.shelf.adopt(fresh, key, lock)?)
    }

    /// Lets `name` mean the image `key`.
    pub(crate) fn name(&self, name: &str, key: &str, lock: &Lock) -> Result<()> {
        self.shelf.name(name, key, lock)
    }
}
