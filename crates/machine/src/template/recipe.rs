// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All that a template depends on, and the name that follows from it.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Raised when templates of older versions must not be used any more: also when the file server agrees upon other things with a guest.
const LAYOUT: u32 = 3;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    layout: u32,
    /// The backend's name.
    pub backend: String,
    /// The machine, in the backend's words.
    pub words: Vec<String>,
    /// What is executed or booted.
    pub files: Vec<Stamp>,
    /// The processor and this boot of the host: a frozen guest goes on with the clock that it knows.
    pub host: Vec<String>,
}

/// A file's state at a glance: an update gives it another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Result<Stamp> {
        let what = || format!("look at {}", path.display());
        let path = fs::canonicalize(path).attempt(what)?;
        let found = fs::metadata(&path).attempt(what)?;
        Ok(Stamp {
            path,
            inode: found.ino(),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Recipe {
    /// Errors: one of the files is not there.
    pub fn new(backend: &str, words: Vec<String>, files: &[&Path]) -> Result<Recipe> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let first = cpuinfo.split("\n\n").next().unwrap_or_default();
        let kept = |line: &&str| {
            ["vendor_id", "model", "stepping", "microcode", "flags"]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let mut host: Vec<String> = first.lines().filter(kept).map(str::to_owned).collect();
        host.push(text("/proc/sys/kernel/random/boot_id").trim().to_owned());
        Ok(Recipe {
            layout: LAYOUT,
            backend: backend.to_owned(),
            words,
            files: files.iter().map(|path| Stamp::of(path)).collect::<Result<_>>()?,
            host,
        })
    }

    /// The name of its template.
    pub fn key(&self) -> String {
        // A structure of texts and numbers can always be written.
        sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether it still could be asked for: its files are as they were, and so is the host.
    pub fn current(&self) -> bool {
        let paths: Vec<&Path> = self.files.iter().map(|stamp| stamp.path.as_path()).collect();
        let now = Recipe::new(&self.backend, self.words.clone(), &paths);
        now.is_ok_and(|now| now == *self)
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use base::Kind;

    use super::*;

    #[test]
    fn everything_that_matters_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinux");
        fs::write(&kernel, "one").unwrap();
        let recipe = |backend: &str, word: &str| Recipe::new(backend, vec![word.to_owned()], &[&kernel]).unwrap();
        let first = recipe("b", "w");
        assert_eq!(first.key(), recipe("b", "w").key());
        assert_eq!(first.key().len(), 64);
        assert_ne!(first.key(), recipe("c", "w").key());
        assert_ne!(first.key(), recipe("b", "v").key());
        assert!(first.current());
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &kernel).unwrap();
        assert_ne!(first.key(), recipe("b", "w").key(), "same size, another file");
        assert!(!first.current());
        fs::remove_file(&kernel).unwrap();
        assert!(!first.current());
        assert_eq!(Recipe::new("b", vec![], &[&kernel]).unwrap_err().kind(), Kind::NotFound);
    }
}
