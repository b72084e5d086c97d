// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What containers are called: by their maker, or at random.

use std::fs::File;
use std::io::Read;

use base::{Context, Error, Kind, Result};

/// A name is a file name and, in tables, a word.
const MAX: usize = 128;

const QUALITIES: [&str; 32] = [
    "airy", "amber", "bold", "brisk", "calm", "clever", "crisp", "dapper", "eager", "early", "fair", "gentle",
    "golden", "happy", "humble", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry", "nimble", "patient",
    "plain", "proud", "quick", "quiet", "sunny", "tidy", "warm", "witty",
];

const THINGS: [&str; 32] = [
    "acorn", "anchor", "badger", "beacon", "birch", "brook", "canoe", "cedar", "comet", "coral", "crane", "delta",
    "ember", "falcon", "fern", "fjord", "heron", "island", "juniper", "lantern", "maple", "meadow", "otter", "pebble",
    "pine", "prairie", "raven", "reef", "sparrow", "summit", "thistle", "willow",
];

/// Errors: `Invalid`, with the rule.
pub fn check(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts && name.len() <= MAX && name.bytes().all(plain) {
        return Ok(());
    }
    let why = format!("up to {MAX} letters, digits, _ . - are, and a letter or digit first");
    Err(Error::new(Kind::Invalid, format!("{name:?} is not a name: {why}")))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.attempt(|| "read /dev/urandom".into())?;
    Ok(bytes)
}

/// A container's id: 64 hex digits.
pub fn id() -> Result<String> {
    Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Two words, for a container that was given none.
pub fn invent() -> Result<String> {
    let [quality, thing] = random::<2>()?.map(|byte| usize::from(byte % 32));
    Ok(format!("{}_{}", QUALITIES[quality], THINGS[thing]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_words() {
        for good in ["a", "box-1", "A.b_c"] {
            check(good).unwrap();
        }
        let long = "x".repeat(MAX + 1);
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ü", &long] {
            assert_eq!(check(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        check(&invent().unwrap()).unwrap();
        let id = id().unwrap();
        assert_eq!(id.len(), 64);
        base::id::check(&id).unwrap();
    }
}
