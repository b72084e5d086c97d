// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! An OCI image layout, in a directory or in an archive: which manifest is meant, and its blobs.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};
use oci_spec::image::ImageIndex;

use crate::digest::Digest;
use crate::manifest::{Document, MANIFEST, choose};

/// Deepest nesting of indexes that is followed.
const DEPTH: usize = 4;

/// Named files: of a directory or of an archive.
pub(crate) trait Files {
    /// The content and its size, None where there is no such file.
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>>;

    /// A whole small file.
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((content, size)) = self.open(name)? else {
            return Ok(None);
        };
        if size > limit {
            return Err(Error::new(
                Kind::Invalid,
                format!("{name} has {size} bytes, at most {limit} are allowed"),
            ));
        }
        let mut bytes = Vec::new();
        content
            .take(limit)
            .read_to_end(&mut bytes)
            .attempt(|| format!("read {name}"))?;
        Ok(Some(bytes))
    }
}

/// Files of a directory that the user named.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Files for Directory {
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>> {
        let path = self.0.join(name);
        let tried = || format!("open {}", path.display());
        match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => {
                let file = other.attempt(tried)?;
                let size = file.metadata().attempt(tried)?.len();
                Ok(Some((Box::new(file), size)))
            }
        }
    }
}

/// Where a blob lies in a layout.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The bytes of a small blob, checked. Errors: `Invalid` when it is missing or not what its digest says.
pub(crate) fn small_blob(files: &dyn Files, digest: &Digest, limit: u64, what: &str) -> Result<Vec<u8>> {
    let bytes = files.read(&blob_name(digest), limit)?;
    let bytes =
        bytes.ok_or_else(|| Error::new(Kind::Invalid, format!("{what} is broken: blob {digest} is missing")))?;
    check(&Digest::of(&bytes), digest, what)?;
    Ok(bytes)
}

/// Errors: `Invalid` unless both are the same.
pub(crate) fn check(found: &Digest, wanted: &Digest, what: &str) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("{what} is broken: the blob {wanted} has the content {found}"),
    ))
}

/// The manifest that is meant.
pub(crate) fn manifest(files: &dyn Files, tag: Option<&str>, what: &str) -> Result<Vec<u8>> {
    let not_a_layout =
        |missing: &str| Error::new(Kind::Invalid, format!("{what} is not an image layout: no {missing}"));
    files
        .read("oci-layout", MANIFEST)?
        .ok_or_else(|| not_a_layout("oci-layout"))?;
    let index = files
        .read("index.json", MANIFEST)?
        .ok_or_else(|| not_a_layout("index.json"))?;
    let parsed = serde_json::from_slice(&index);
    let mut index: ImageIndex = parsed.context(Kind::Invalid, || format!("read index.json of {what}"))?;
    let mut tag = tag;
    for _ in 0..DEPTH {
        let digest = Digest::parse(choose(&index, tag, what)?.digest().as_ref())?;
        let bytes = small_blob(files, &digest, MANIFEST, what)?;
        match Document::parse(&bytes, what)? {
            Document::Manifest(_) => return Ok(bytes),
            Document::Index(nested) => index = *nested,
        }
        // Tags stand in the outermost index.
        tag = None;
    }
    Err(Error::new(
        Kind::Invalid,
        format!("{what} is broken: indexes nest too deep"),
    ))
}
