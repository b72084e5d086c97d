// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Templates: a guest that was booted once, frozen before anything of its own happened in it, and written to disk. A machine
//! that begins as a copy of it need not boot.
//!
//! ```text
//! <store>/<key>/manifest.json   what it is, and how long its files are
//!              /state           devices and processors, as the hypervisor wrote them
//!              /pages           which pages of the guest's memory are kept: their check sum, pairs of offset and length
//!              /memory          their content, one after the other
//!              /served          what the server of its devices has to know, if there is one
//! ```
//!
//! A key is a hash over all that a template depends on, so that one that is out of date is not found. Nothing here knows a
//! hypervisor.

mod manifest;
mod pages;
mod recipe;
mod store;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

pub use manifest::Manifest;
pub use recipe::Recipe;
pub use store::{Built, Store};

const STATE: &str = "state";
const PAGES: &str = "pages";
const MEMORY: &str = "memory";
const SERVED: &str = "served";
/// Is there once a machine has come up as a copy.
const PROVED: &str = "proved";
const MIB: u64 = 1 << 20;

/// A template that was found whole.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
    manifest: Manifest,
}

impl Template {
    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a machine has come up as a copy of it before.
    pub fn is_proved(&self) -> bool {
        self.dir.join(PROVED).exists()
    }

    /// A machine has come up as a copy of it.
    pub fn prove(&self) {
        if !self.is_proved()
            && let Err(e) = File::create(self.dir.join(PROVED))
        {
            log::debug!("mark template {}: {e}", self.dir.display());
        }
    }

    /// What the hypervisor wrote, as it was when the template was made. Errors: `Invalid` if it is not.
    pub fn state(&self) -> Result<Vec<u8>> {
        self.manifest.state.read(&self.dir)
    }

    /// What the server of its devices has to know, as it was when the template was made. Errors: `Invalid` if it is not.
    pub fn served(&self) -> Result<Option<File>> {
        if self.manifest.served.read(&self.dir)?.is_empty() {
            return Ok(None);
        }
        let path = self.dir.join(SERVED);
        File::open(&path)
            .map(Some)
            .attempt(|| format!("open {}", path.display()))
    }

    /// Puts the pages into `memory`, which is empty. Takes some milliseconds per 10 MiB. Errors: they are not as they were; the
    /// memory is of no use then.
    pub fn fill(&self, memory: &File) -> Result<()> {
        let size = memory.metadata().attempt(|| "look at the guest's memory".into())?.len();
        let pages = pages::parse(&self.manifest.pages.read(&self.dir)?, size)?;
        let path = self.dir.join(MEMORY);
        let from = File::open(&path).attempt(|| format!("open {}", path.display()))?;
        pages::expand(&pages, &from, memory).attempt(|| format!("copy {}", path.display()))
    }
}

/// Memory for a machine whose processes share it, empty.
pub fn memory(mib: u64) -> Result<File> {
    let what = || format!("make {mib} MiB of memory");
    let memory: OwnedFd = memfd_create("guest", MFdFlags::MFD_CLOEXEC).attempt(what)?;
    let memory = File::from(memory);
    let size = mib.checked_mul(MIB).ok_or_else(|| Error::new(Kind::Invalid, what()))?;
    memory.set_len(size).attempt(what)?;
    Ok(memory)
}

/// Writes what a hypervisor froze into `dir`: the second half of a `Backend::freeze`.
pub fn write(dir: &Path, state: &[u8], memory: &File) -> Result<()> {
    let path = dir.join(STATE);
    std::fs::write(&path, state).attempt(|| format!("write {}", path.display()))?;
    let path = dir.join(MEMORY);
    let what = || format!("write {}", path.display());
    let to = File::create(&path).attempt(what)?;
    let pages = pages::compress(memory, &to).attempt(what)?;
    let path = dir.join(PAGES);
    std::fs::write(&path, pages::bytes(&pages)).attempt(|| format!("write {}", path.display()))
}
