// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directory that holds kernels of our own, within the store of guest images.

use std::fs;
use std::path::{Path, PathBuf};

use base::{Context, Result, file};

use super::manifest::KernelManifest;
use crate::kernel::Kernel;
use crate::modules::Modules;
use crate::shelf::{DEFAULT, Lock, Shelf};
use crate::store::{KERNEL, Store};

/// Its name within the store of guest images.
pub(crate) const DIR: &str = "kernels";
/// The finished configuration of a kernel.
pub(crate) const CONFIG: &str = "config";
/// The names of what would be modules elsewhere.
pub(crate) const BUILTIN: &str = "modules.builtin";
const COMMAND: &str = "kata guest kernel";

/// A directory of kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    shelf: Shelf,
}

/// A kernel that we compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKernel {
    /// The directory that holds all of it.
    pub dir: PathBuf,
    /// What it was made of.
    pub manifest: KernelManifest,
}

impl OwnKernel {
    /// The kernel in the directory `dir`.
    pub fn at(dir: PathBuf) -> Result<OwnKernel> {
        let manifest = KernelManifest::read(&dir)?;
        Ok(OwnKernel { dir, manifest })
    }

    /// Checks that the files are those that were built; `thorough` reads all of them, otherwise sizes and times do.
    pub fn check(&self, thorough: bool) -> Result<()> {
        let mut outputs = self.manifest.outputs.iter();
        outputs.try_for_each(|output| output.check(&self.dir, thorough, COMMAND))
    }

    /// The files of which it consists.
    pub(crate) fn files(&self) -> [PathBuf; 3] {
        [KERNEL, CONFIG, BUILTIN].map(|name| self.dir.join(name))
    }

    /// Reads it.
    pub(crate) fn load(&self) -> Result<Kernel> {
        self.check(false)?;
        let text = |name: &str| {
            let path = self.dir.join(name);
            fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))
        };
        let image = self.dir.join(KERNEL);
        let mut modules = Modules::default();
        modules.add_builtin(&text(BUILTIN)?);
        Ok(Kernel {
            release: self.manifest.release.clone(),
            image: fs::read(&image).attempt(|| format!("read kernel {}", image.display()))?,
            config: Some(text(CONFIG)?),
            modules,
            packages: Vec::new(),
        })
    }
}

impl Kernels {
    /// The kernels of a store of guest images.
    pub fn of(store: &Store) -> Kernels {
        Kernels::at(store.dir().join(DIR))
    }

    /// Kernels elsewhere.
    pub(crate) fn at(dir: PathBuf) -> Kernels {
        Kernels {
            shelf: Shelf::at(dir, "guest kernel", COMMAND),
        }
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        self.shelf.dir()
    }

    /// The kernel with this key or start of a key; without, the one that was asked for last.
    pub fn find(&self, key: Option<&str>) -> Result<OwnKernel> {
        OwnKernel::at(self.shelf.locate(key.unwrap_or(DEFAULT))?)
    }

    /// All kernels that can be read, by key, each with whether it is the one that was asked for last.
    pub fn list(&self) -> Result<Vec<(OwnKernel, bool)>> {
        let mut kernels = Vec::new();
        for (key, dir, names) in self.shelf.list()? {
            match OwnKernel::at(dir) {
                Ok(kernel) => kernels.push((kernel, !names.is_empty())),
                Err(e) => log::warn!("skip guest kernel {key}: {}", e.chain()),
            }
        }
        Ok(kernels)
    }

    /// Removes one kernel, by key. Images that were made of it stay.
    pub fn remove(&self, key: &str) -> Result<()> {
        let dir = self.shelf.locate(key)?;
        let key = dir.file_name().unwrap_or_default().to_string_lossy();
        self.shelf.remove(&key)
    }

    /// Removes every kernel; returns how many there were.
    pub fn remove_all(&self) -> Result<usize> {
        self.shelf.remove_all()
    }

    pub(crate) fn lock(&self) -> Result<Lock> {
        self.shelf.lock()
    }

    pub(crate) fn fresh(&self, lock: &Lock) -> Result<file::OwnedDir> {
        self.shelf.fresh(lock)
    }

    pub(crate) fn adopt(&self, fresh: file::OwnedDir, key: &str, lock: &Lock) -> Result<OwnKernel> {
        OwnKernel::at(self.shelf.adopt(fresh, key, lock)?)
    }

    /// Lets `key` be the kernel that was asked for last.
    pub(crate) fn choose(&self, key: &str, lock: &Lock) -> Result<()> {
        self.shelf.name(DEFAULT, key, lock)
    }

    /// The kernel with this key, if it is there and whole.
    pub(crate) fn intact(&self, key: &str) -> Option<OwnKernel> {
        self.find(Some(key)).ok().filter(|kernel| kernel.check(true).is_ok())
    }
}
