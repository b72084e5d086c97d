// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The papers of a kernel of our own: what it was compiled from, with what, and what came out.

use std::fs;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::manifest::{Input, Output};
use crate::store::MANIFEST;

/// The version of this file's layout.
pub const SCHEMA: u32 = 1;

/// A kernel's papers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The kernel's name in the store: a hash over all inputs.
    pub key: String,
    /// The version of kata that built it.
    pub kata: String,
    /// When it was built (RFC 3339, UTC). Not part of the key.
    pub created: String,
    /// As `uname -r` prints it.
    pub release: String,
    /// The time that the kernel says it was built at, in seconds since 1970: that of its source.
    pub epoch: i64,
    /// The compiler.
    pub compiler: String,
    /// The linker.
    pub linker: String,
    /// The archive, or the directory.
    pub source: Input,
    /// The user's configuration fragments, in the order in which they were laid over ours.
    pub fragments: Vec<Input>,
    /// The hash of all fragments, ours included, laid over one another.
    pub wished: String,
    /// The hash of the finished configuration.
    pub config: String,
    /// Options of ours that this kernel does not know.
    pub unknown: Vec<String>,
    /// The kernel, its configuration, and the list of what is built in.
    pub outputs: Vec<Output>,
}

impl KernelManifest {
    /// Reads the manifest of the kernel in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<KernelManifest> {
        let path = dir.join(MANIFEST);
        let tried = || format!("read {}", path.display());
        let bytes = fs::read(&path).attempt(tried)?;
        let manifest: KernelManifest = serde_json::from_slice(&bytes).context(Kind::Invalid, tried)?;
        if manifest.schema != SCHEMA {
            let reason = format!("{} has schema {}, not {SCHEMA}", path.display(), manifest.schema);
            return Err(Error::new(Kind::Unsupported, reason));
        }
        Ok(manifest)
    }
}
