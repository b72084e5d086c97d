// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Container, exec and sandbox ids: they become directory and file names.

use crate::{Error, Kind, Result};

/// Longest id that is taken, in bytes; a file name may have 255.
pub const MAX: usize = 240;

/// Refuses what is not a safe file name: runc's rule (letters, digits, `_ + - .`, not `.` or `..`).
pub fn check(id: &str) -> Result<()> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    let why = if id.is_empty() {
        "it is empty".to_owned()
    } else if id == "." || id == ".." {
        "it names a directory".to_owned()
    } else if id.len() > MAX {
        format!("it has {} bytes, at most {MAX} are allowed", id.len())
    } else if let Some(bad) = id.chars().find(|c| !c.is_ascii() || !safe(*c as u8)) {
        format!("{bad:?} is not a letter, a digit or one of _ + - .")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Invalid, format!("invalid container id {id:?}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_file_names_pass() {
        for good in ["a", "A.b_c+d-9", "..."] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = "x".repeat(MAX + 1);
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\n", &long] {
            assert_eq!(check(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
