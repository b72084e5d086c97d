// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! SHA-256 in hexadecimal.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::path::Path;

use base::{Context, Result};
use sha2::{Digest, Sha256};

/// Of bytes in memory.
pub(crate) fn of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Of a file's content.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let tried = || format!("read {}", path.display());
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path).attempt(tried)?, &mut hasher).attempt(tried)?;
    Ok(hex(&hasher.finalize()))
}

/// As text.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
