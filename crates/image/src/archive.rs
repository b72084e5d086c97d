// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `docker save` writes: one tar file with the blobs of one or more images, listed in `manifest.json` or, in
//! newer ones, as an OCI layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use serde::Deserialize;
use serde_json::json;

use crate::compression::{Compression, unpacked};
use crate::digest::{Digest, Hashing};
use crate::job::{Cancel, Job, Metered, Step};
use crate::layout::{Files, blob_name};
use crate::manifest::{CONFIGURATION, MANIFEST};
use crate::tarball::{self, Entries};

/// Most files that are looked at.
const MEMBERS: usize = 100_000;

/// The files of an archive, found once, read where they lie.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    Bytes {
        offset: u64,
        size: u64,
    },
    /// Old versions save a layer that two images share as a link.
    Link(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Opens the archive; a packed one is unpacked into `room`, an empty file, first.
    pub(crate) fn open(path: &Path, room: impl FnOnce() -> Result<File>, job: &Job) -> Result<Archive> {
        let tried = || format!("read {}", path.display());
        let mut file = File::open(path).attempt(|| format!("open {}", path.display()))?;
        let mut start = Vec::new();
        file.by_ref().take(6).read_to_end(&mut start).attempt(tried)?;
        file.rewind().attempt(tried)?;
        if Compression::of(&start) != Compression::None {
            let total = file.metadata().attempt(tried)?.len();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let meter = job.progress.begin(Step::Unpack, &name, Some(total));
            let mut plain = unpacked(Metered::new(file, meter, job.cancel.clone())).attempt(tried)?;
            let mut copy = room()?;
            io::copy(&mut plain, &mut copy).attempt(|| format!("unpack {}", path.display()))?;
            drop(plain);
            copy.seek(SeekFrom::Start(0)).attempt(tried)?;
            file = copy;
        }
        let members = find_members(&file, &job.cancel).attempt(tried)?;
        Ok(Archive { file, members })
    }

    /// The manifest of the image that is meant, and how its blobs' digests are called in the archive.
    /// Errors: `NotFound` for an unknown reference, `Invalid` when one is needed or the archive is no image.
    pub(crate) fn manifest(&self, wanted: Option<&str>, what: &str) -> Result<(Vec<u8>, BTreeMap<Digest, String>)> {
        let Some(list) = self.read("manifest.json", MANIFEST)? else {
            return Ok((crate::layout::manifest(self, wanted, what)?, BTreeMap::new()));
        };
        let parsed = serde_json::from_slice(&list);
        let images: Vec<Saved> = parsed.context(Kind::Invalid, || format!("read manifest.json of {what}"))?;
        let image = choose(&images, wanted, what)?;
        let missing = |name: &str| Error::new(Kind::Invalid, format!("{what} is broken: {name} is missing"));
        let config = self
            .read(&image.config, CONFIGURATION)?
            .ok_or_else(|| missing(&image.config))?;
        let mut names = BTreeMap::from([(Digest::of(&config), image.config.clone())]);
        let diffs = crate::manifest::configuration(&config, what)?;
        let diffs = diffs.rootfs().diff_ids();
        let mut layers = Vec::new();
        for (index, name) in image.layers.iter().enumerate() {
            let (mut bytes, size) = self.open(name)?.ok_or_else(|| missing(name))?;
            let mut start = Vec::new();
            bytes
                .by_ref()
                .take(6)
                .read_to_end(&mut start)
                .attempt(|| format!("read {name} of {what}"))?;
            // A layer that is not packed is called by its diff id, which unpacking checks.
            let digest = match (Compression::of(&start), diffs.get(index)) {
                (Compression::None, Some(diff)) => Digest::parse(diff)?,
                _ => {
                    let hash = Hashing::new(io::Cursor::new(start).chain(bytes));
                    hash.finish().attempt(|| format!("read {name} of {what}"))?
                }
            };
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": size
            }));
            names.insert(digest, name.clone());
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config).to_string(), "size": config.len()
            },
            "layers": layers,
        });
        Ok((manifest.to_string().into_bytes(), names))
    }

    /// A blob by what [`Archive::manifest`] called it.
    pub(crate) fn blob<'a>(&'a self, digest: &Digest, names: &BTreeMap<Digest, String>) -> Result<Box<dyn Read + 'a>> {
        let own = blob_name(digest);
        let name = names.get(digest).unwrap_or(&own);
        let missing = || Error::new(Kind::Invalid, format!("the archive is broken: {name} is missing"));
        self.open(name)?.map(|(bytes, _)| bytes).ok_or_else(missing)
    }
}

impl Files for Archive {
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>> {
        let mut name = name;
        for _ in 0..8 {
            match self.members.get(name) {
                None => return Ok(None),
                Some(Member::Link(target)) => name = target,
                Some(Member::Bytes { offset, size }) => {
                    let range = Range {
                        file: &self.file,
                        next: *offset,
                        end: offset + size,
                    };
                    return Ok(Some((Box::new(range), *size)));
                }
            }
        }
        Err(Error::new(Kind::Invalid, format!("{name} is a loop of links")))
    }
}

/// Some bytes of a file.
struct Range<'a> {
    file: &'a File,
    next: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        let most = left.min(buf.len());
        let n = self.file.read_at(&mut buf[..most], self.next)?;
        if n == 0 && most > 0 {
            return Err(tarball::broken("it ends within a file"));
        }
        self.next += n as u64;
        Ok(n)
    }
}

/// Reads by seeking: what is not asked for is not read.
fn find_members(file: &File, cancel: &Cancel) -> io::Result<BTreeMap<String, Member>> {
    let length = file.metadata()?.len();
    let mut members = BTreeMap::new();
    let mut at = 0;
    loop {
        cancel.check().map_err(io::Error::other)?;
        let window = Range {
            file,
            next: at,
            end: length,
        };
        let mut entries = Entries::new(window);
        let Some(entry) = entries.advance()? else {
            return Ok(members);
        };
        if members.len() == MEMBERS {
            return Err(tarball::broken("too many files for a saved image"));
        }
        let name = plain(&String::from_utf8_lossy(&entry.path), "");
        let offset = at + entries.position();
        let size = entry.size;
        let member = match entry.kind {
            tarball::Kind::File => Some(Member::Bytes { offset, size }),
            tarball::Kind::Symlink(target) => {
                let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                Some(Member::Link(plain(&String::from_utf8_lossy(&target), dir)))
            }
            tarball::Kind::HardLink(target) => Some(Member::Link(plain(&String::from_utf8_lossy(&target), ""))),
            _ => None,
        };
        if let Some(member) = member {
            members.insert(name, member);
        }
        let end = offset.checked_add(size).filter(|end| *end <= length);
        let end = end.ok_or_else(|| tarball::broken("it ends within a file"))?;
        at = end.next_multiple_of(512).min(length);
    }
}

/// A relative name without `.` and `..`.
fn plain(name: &str, dir: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn choose<'a>(images: &'a [Saved], wanted: Option<&str>, what: &str) -> Result<&'a Saved> {
    let tags = |image: &'a Saved| image.repo_tags.as_deref().unwrap_or_default();
    let all: Vec<&str> = images
        .iter()
        .flat_map(|image| tags(image).iter().map(String::as_str))
        .collect();
    let Some(wanted) = wanted else {
        return match images {
            [only] => Ok(only),
            [] => Err(Error::new(Kind::Invalid, format!("{what} holds no image"))),
            _ => {
                let why = format!(
                    "{what} holds several images: add :REFERENCE with one of {}",
                    all.join(", ")
                );
                Err(Error::new(Kind::Invalid, why))
            }
        };
    };
    let full = |name: &str| name.parse().map(|name: oci_client::Reference| name.whole()).ok();
    let named = |tag: &String| tag == wanted || full(tag).is_some_and(|tag| Some(tag) == full(wanted));
    let found = images.iter().find(|image| tags(image).iter().any(named));
    let missing = || {
        Error::new(
            Kind::NotFound,
            format!("{what} has no image {wanted:?}, only: {}", all.join(", ")),
        )
    };
    found.ok_or_else(missing)
}
