// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What an image's name stands for: one small file per name.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use base::{Context, Kind, Result, file};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::digest::Digest;

/// An image that has a name here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The full name, as [`crate::Source`] shows it.
    pub name: String,
    /// Digest of its manifest: the image's id.
    pub manifest: Digest,
    /// When it was pulled or opened last.
    pub pulled: OffsetDateTime,
    /// Bytes of its packed layers and documents.
    pub size: u64,
}

/// How a name is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    name: String,
    manifest: String,
    #[serde(with = "time::serde::rfc3339")]
    pulled: OffsetDateTime,
    size: u64,
}

#[derive(Debug)]
pub(crate) struct Refs {
    dir: PathBuf,
}

impl Refs {
    pub(crate) fn new(dir: PathBuf) -> Refs {
        Refs { dir }
    }

    /// Names hold slashes and colons: the file is called by the name's hash.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(Digest::of(name.as_bytes()).hex())
    }

    pub(crate) fn set(&self, named: &Named) -> Result<()> {
        let saved = Saved {
            name: named.name.clone(),
            manifest: named.manifest.to_string(),
            pulled: named.pulled,
            size: named.size,
        };
        let bytes = serde_json::to_vec(&saved).context(Kind::Bug, || format!("save the name {}", named.name))?;
        file::replace(&self.path(&named.name), &bytes)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<Named>> {
        let path = self.path(name);
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => read(&other.attempt(|| format!("read {}", path.display()))?).map(Some),
        }
    }

    /// By name.
    pub(crate) fn list(&self) -> Result<Vec<Named>> {
        let mut all = Vec::new();
        let tried = || format!("read directory {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).attempt(tried)? {
            let path = entry.attempt(tried)?.path();
            // Files that are just being replaced have an extension.
            if path.extension().is_none() {
                match fs::read(&path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    other => all.push(read(&other.attempt(|| format!("read {}", path.display()))?)?),
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// False when there was none.
    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            other => other.attempt(|| format!("remove {}", path.display())).map(|()| true),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Named> {
    let saved: Saved = serde_json::from_slice(bytes).context(Kind::Invalid, || "read a name of the store".into())?;
    Ok(Named {
        manifest: Digest::parse(&saved.manifest)?,
        name: saved.name,
        pulled: saved.pulled,
        size: saved.size,
    })
}
