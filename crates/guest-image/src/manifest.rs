// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `manifest.json`: what a guest image was made of, and what came out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::store::MANIFEST;

/// The version of this file's layout.
pub const SCHEMA: u32 = 1;

/// A guest image's papers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The image's name in the store: a hash over all inputs.
    pub key: String,
    /// The version of kata that built it.
    pub kata: String,
    /// When it was built (RFC 3339, UTC). Not part of the key.
    pub created: String,
    /// The kernel release, as `uname -r` prints it.
    pub release: String,
    /// The packages that the kernel came in, as `name version`; none if it came from files on disk.
    pub packages: Vec<String>,
    /// Names of the modules, in the order of loading.
    pub modules: Vec<String>,
    /// The agent.
    pub agent: Input,
    /// What the kernel was taken from.
    pub inputs: Vec<Input>,
    /// The kernel and the initramfs.
    pub outputs: Vec<Output>,
    /// What was asked for, so that asking again costs nothing.
    pub request: Asked,
}

/// A file that went into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it was.
    pub path: PathBuf,
    /// Its content's hash.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

impl Input {
    pub(crate) fn of_file(path: &Path) -> Result<Input> {
        let tried = || format!("read {}", path.display());
        Ok(Input {
            path: path.to_owned(),
            sha256: digest::of_file(path)?,
            size: fs::metadata(path).attempt(tried)?.size(),
        })
    }
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Within the image's directory.
    pub name: String,
    /// Its content's hash.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
    /// Its time of modification, in nanoseconds since 1970: a cheap sign that nobody touched it.
    pub mtime: i64,
}

/// The request behind an image, with the state of everything that could change the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// How images were laid out then.
    #[serde(default)]
    pub layout: String,
    /// The kernel that was asked for, in words.
    pub kernel: String,
    /// What was looked at.
    pub stamps: Vec<Stamp>,
}

/// A file's or directory's state at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Where it is.
    pub path: PathBuf,
    /// Its size and time of modification in nanoseconds; nothing if it does not exist.
    pub seen: Option<(u64, i64)>,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Stamp {
        Stamp {
            path: path.to_owned(),
            seen: fs::metadata(path).ok().map(|meta| (meta.size(), mtime(&meta))),
        }
    }
}

fn mtime(meta: &fs::Metadata) -> i64 {
    meta.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec())
}

impl Output {
    /// Describes a file that was just written into `dir`.
    pub(crate) fn of(dir: &Path, name: &str) -> Result<Output> {
        let path = dir.join(name);
        let meta = fs::metadata(&path).attempt(|| format!("look at {}", path.display()))?;
        Ok(Output {
            name: name.to_owned(),
            sha256: digest::of_file(&path)?,
            size: meta.size(),
            mtime: mtime(&meta),
        })
    }

    /// Checks that the file in `dir` is still the one that was written: by size and time, and by content only if the
    /// time differs or `thorough`. What `command` made it makes it anew.
    pub(crate) fn check(&self, dir: &Path, thorough: bool, command: &str) -> Result<()> {
        let path = dir.join(&self.name);
        let meta = fs::metadata(&path).attempt(|| format!("look at {}", path.display()))?;
        let damaged = |how: &str| {
            let reason = format!("{} is damaged ({how}): run `{command} --force`", path.display());
            Error::new(Kind::Invalid, reason)
        };
        if meta.size() != self.size {
            return Err(damaged(&format!("{} bytes instead of {}", meta.size(), self.size)));
        }
        if (thorough || mtime(&meta) != self.mtime) && digest::of_file(&path)? != self.sha256 {
            return Err(damaged("its hash differs from the manifest's"));
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads the manifest of the image in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        let tried = || format!("read {}", path.display());
        let manifest: Manifest =
            serde_json::from_slice(&fs::read(&path).attempt(tried)?).context(Kind::Invalid, tried)?;
        if manifest.schema != SCHEMA {
            let reason = format!("{} has schema {}, not {SCHEMA}", path.display(), manifest.schema);
            return Err(Error::new(Kind::Unsupported, reason));
        }
        Ok(manifest)
    }
}
