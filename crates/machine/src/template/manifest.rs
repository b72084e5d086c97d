// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `manifest.json`: what a template was made of and what its files are, so that a damaged one is not used.

use std::fs;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::recipe::{Recipe, sha256};
use super::{MEMORY, PAGES, SERVED, STATE};

const FILE: &str = "manifest.json";

/// A template's papers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The hash of the recipe: the template's name.
    pub key: String,
    /// What it was made of.
    pub recipe: Recipe,
    /// Of the machine.
    pub vcpus: u32,
    /// Of the machine.
    pub memory_mib: u64,
    /// Bytes of `memory`.
    pub size: u64,
    pub(super) state: Sealed,
    pub(super) pages: Sealed,
    pub(super) served: Sealed,
}

/// A small file whose content is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    name: String,
    sha256: String,
}

impl Sealed {
    fn of(dir: &Path, name: &str) -> Result<Sealed> {
        let path = dir.join(name);
        let content = fs::read(&path).attempt(|| format!("read {}", path.display()))?;
        Ok(Sealed {
            name: name.to_owned(),
            sha256: sha256(&content),
        })
    }

    /// Errors: `Invalid` when it is another one.
    pub fn read(&self, dir: &Path) -> Result<Vec<u8>> {
        let path = dir.join(&self.name);
        let content = fs::read(&path).attempt(|| format!("read {}", path.display()))?;
        if sha256(&content) == self.sha256 {
            Ok(content)
        } else {
            Err(Error::new(Kind::Invalid, format!("{} is damaged", path.display())))
        }
    }
}

fn size(dir: &Path) -> Result<u64> {
    let path = dir.join(MEMORY);
    let found = fs::metadata(&path).attempt(|| format!("look at {}", path.display()))?;
    Ok(found.len())
}

impl Manifest {
    /// Of the template that was just written into `dir`.
    pub(super) fn write(dir: &Path, recipe: Recipe, vcpus: u32, memory_mib: u64) -> Result<()> {
        let manifest = Manifest {
            key: recipe.key(),
            recipe,
            vcpus,
            memory_mib,
            size: size(dir)?,
            state: Sealed::of(dir, STATE)?,
            pages: Sealed::of(dir, PAGES)?,
            served: Sealed::of(dir, SERVED)?,
        };
        let json = serde_json::to_vec_pretty(&manifest).context(Kind::Bug, || "write a manifest".into())?;
        base::file::replace(&dir.join(FILE), &json)
    }

    /// Of the template in `dir`, whose files are there. Errors: `NotFound`, `Invalid`.
    pub(super) fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE);
        let what = || format!("read {}", path.display());
        let json = fs::read(&path).attempt(what)?;
        let manifest: Manifest = serde_json::from_slice(&json).context(Kind::Invalid, what)?;
        let found = size(dir)?;
        if found != manifest.size {
            let what = format!("{}: {found} bytes of memory, not {}", dir.display(), manifest.size);
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(manifest)
    }
}
