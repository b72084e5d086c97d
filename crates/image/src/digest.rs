// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Content addresses (`sha256:…`) and readers that compute them while bytes pass.

use std::fmt;
use std::io::{self, Read};

use base::{Error, Kind, Result};
use sha2::{Digest as _, Sha256};

/// A checked `sha256:<64 hex digits>`, safe as a file name by [`Digest::hex`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Errors: `Unsupported` for another algorithm, `Invalid` for anything else.
    pub fn parse(text: &str) -> Result<Digest> {
        let wrong = |kind, why: &str| Err(Error::new(kind, format!("invalid digest {text:?}: {why}")));
        let Some((algorithm, hex)) = text.split_once(':') else {
            return wrong(Kind::Invalid, "no algorithm");
        };
        if algorithm != "sha256" {
            return wrong(Kind::Unsupported, "only sha256 is supported");
        }
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return wrong(Kind::Invalid, "not 64 lower-case hex digits");
        }
        Ok(Digest(hex.to_owned()))
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_hash(Sha256::new_with_prefix(bytes))
    }

    fn from_hash(hash: Sha256) -> Digest {
        Digest(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The name of a stack of layers: of `layer` (a diff id) on top of the stack `parent` (image-spec, "Layer
    /// ChainID").
    pub fn chain(parent: Option<&Digest>, layer: &Digest) -> Digest {
        match parent {
            None => layer.clone(),
            Some(parent) => Digest::of(format!("{parent} {layer}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(source: R) -> Hashing<R> {
        Hashing {
            source,
            hash: Sha256::new(),
        }
    }

    /// Reads the rest and tells the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::from_hash(self.hash))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_full_sha256_digests_pass() {
        assert_eq!(Digest::parse(EMPTY).unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let sha512 = format!("sha512:{}", "a".repeat(128));
        assert_eq!(Digest::parse(&sha512).unwrap_err().kind(), Kind::Unsupported);
        for bad in ["", "sha256:", "sha256:../../etc", &EMPTY.to_uppercase(), &EMPTY[..70]] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chain_follows_the_image_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(Digest::chain(None, &a), a);
        assert_eq!(Digest::chain(Some(&a), &b), Digest::of(format!("{a} {b}").as_bytes()));
    }

    #[test]
    fn hashing_covers_what_nobody_read() {
        let mut reader = Hashing::new(&b"abcdef"[..]);
        reader.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(reader.finish().unwrap(), Digest::of(b"abcdef"));
    }
}
