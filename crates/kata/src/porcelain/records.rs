// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All containers that the porcelain knows, on disk:
//!
//! ```text
//! <state>/records/<name>/   one container; that the directory exists is the lock on the name
//! <state>/volumes/<name>/   volumes with a name, which stay until somebody removes them
//! <state>/trash/            what was removed by a process that was killed meanwhile
//! ```

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base::file::{OwnedDir, remove_tree};
use base::{Context, Error, Kind, Result};
use image::Digest;

use super::name;
use super::record::{Held, Place, Record};

/// See the module.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// A name that was taken for a container that is being made; all is undone on drop, unless it is kept.
#[derive(Debug)]
pub struct Reserved {
    // In this order: nobody else may take it before it has gone.
    dir: OwnedDir,
    held: Held,
    pub place: Place,
}

impl Reserved {
    /// The container is made.
    pub fn keep(self) -> Place {
        self.dir.keep();
        drop(self.held);
        self.place
    }
}

impl Records {
    /// Those that a container is one of.
    pub fn of(place: &Place) -> Result<Records> {
        let dir = place.path().parent().and_then(Path::parent);
        let dir = dir.ok_or_else(|| Error::new(Kind::Bug, format!("{} is no record", place.path().display())))?;
        Records::at(dir.to_owned())
    }

    /// Makes what is missing and clears the trash.
    pub fn at(dir: PathBuf) -> Result<Records> {
        for name in ["records", "volumes", "trash"] {
            let path = dir.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o711).create(&path);
            made.attempt(|| format!("create directory {}", path.display()))?;
        }
        let records = Records { dir };
        for path in entries(&records.dir.join("trash"))? {
            if let Err(e) = remove_tree(&path) {
                log::warn!("{}", e.chain());
            }
        }
        Ok(records)
    }

    pub fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    fn place(&self, name: &str) -> Place {
        Place::new(self.dir.join("records").join(name))
    }

    /// Takes a name, or an invented one. Errors: `Exists` when it is taken.
    pub fn reserve(&self, name: Option<&str>) -> Result<Reserved> {
        let taken = |name: &str| Error::new(Kind::Exists, format!("the name {name} is taken by another container"));
        if let Some(name) = name {
            name::check(name)?;
            return self.take(name)?.ok_or_else(|| taken(name));
        }
        for _ in 0..100 {
            if let Some(reserved) = self.take(&name::invent()?)? {
                return Ok(reserved);
            }
        }
        // So many containers: a name that nobody else has.
        let name = name::id()?;
        self.take(&name)?.ok_or_else(|| taken(&name))
    }

    fn take(&self, name: &str) -> Result<Option<Reserved>> {
        let place = self.place(name);
        let dir = match OwnedDir::create(place.path()) {
            Err(e) if e.kind() == Kind::Exists => return Ok(None),
            other => other?,
        };
        let held = place.hold()?;
        Ok(Some(Reserved { dir, held, place }))
    }

    /// All, by name.
    pub fn list(&self) -> Result<Vec<Place>> {
        let mut paths = entries(&self.dir.join("records"))?;
        paths.sort();
        Ok(paths.into_iter().map(Place::new).collect())
    }

    /// By name, by id, or by the first digits of an id. Errors: `NotFound`; `Invalid` when it could be several.
    pub fn find(&self, text: &str) -> Result<Place> {
        if name::check(text).is_ok() && self.place(text).path().is_dir() {
            return Ok(self.place(text));
        }
        let mut found = Vec::new();
        for place in self.list()? {
            // One that cannot be read is found by its name.
            if let Ok(Some(record)) = place.record()
                && !text.is_empty()
                && record.id.starts_with(text)
            {
                found.push(place);
            }
        }
        match found.len() {
            0 => Err(Error::new(Kind::NotFound, format!("no container {text}"))),
            1 => Ok(found.remove(0)),
            _ => Err(Error::new(Kind::Invalid, format!("several containers are {text}…"))),
        }
    }

    /// As [`Records::find`], with the record. Errors: also `State` for one that its maker never finished.
    pub fn known(&self, text: &str) -> Result<(Place, Record)> {
        let place = self.find(text)?;
        match place.record()? {
            Some(record) => Ok((place, record)),
            None => Err(Error::new(Kind::State, format!("container {text} was never made"))),
        }
    }

    /// Removes a container's directory; the caller holds it.
    pub fn discard(&self, place: &Place) -> Result<()> {
        // At once, so that the name is free; what is left of it after a crash is rubbish.
        let gone = self.dir.join("trash").join(format!("{}.{}", place.name(), name::id()?));
        match fs::rename(place.path(), &gone) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => {
                other.attempt(|| format!("remove {}", place.path().display()))?;
                remove_tree(&gone)
            }
        }
    }

    /// The layers that containers stand on.
    pub fn layers(&self) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        for place in self.list()? {
            if let Some(record) = place.record()? {
                all.extend(record.digests()?);
            }
        }
        Ok(all)
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let tried = || format!("read directory {}", dir.display());
    let entries = fs::read_dir(dir).attempt(tried)?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).attempt(tried))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_free_again_when_its_container_was_not_made() {
        let top = tempfile::tempdir().unwrap();
        let records = Records::at(top.path().join("state")).unwrap();
        let first = records.reserve(Some("box")).unwrap();
        let again = records.reserve(Some("box")).unwrap_err();
        assert_eq!(again.kind(), Kind::Exists);
        assert!(again.chain().contains("box"));
        drop(first);
        let place = records.reserve(Some("box")).unwrap().keep();
        assert!(records.reserve(Some("box")).is_err());
        assert!(records.reserve(Some("a/b")).is_err());
        records.discard(&place).unwrap();
        records.discard(&place).unwrap();
        assert!(records.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(top.path().join("state/trash")).unwrap().count(), 0);
        assert!(records.reserve(None).is_ok());
    }

    #[test]
    fn containers_are_found_by_name_and_by_the_first_digits() {
        let top = tempfile::tempdir().unwrap();
        let records = Records::at(top.path().to_owned()).unwrap();
        for (id, name) in [("aa11", "one"), ("aa22", "two"), ("bb", "aa2")] {
            let place = records.reserve(Some(name)).unwrap().keep();
            place.write(&record(id, name)).unwrap();
        }
        records.reserve(Some("half")).unwrap().keep();
        let find = |text: &str| records.find(text).map(|place| place.name());
        assert_eq!(find("one").unwrap(), "one");
        assert_eq!(find("aa1").unwrap(), "one");
        assert_eq!(find("aa2").unwrap(), "aa2", "a name counts more");
        assert_eq!(find("bb").unwrap(), "aa2");
        assert_eq!(find("half").unwrap(), "half");
        assert_eq!(find("aa").unwrap_err().kind(), Kind::Invalid);
        for none in ["", "x", "../records/one", "."] {
            assert_eq!(find(none).unwrap_err().kind(), Kind::NotFound, "{none:?}");
        }
        assert_eq!(records.known("half").unwrap_err().kind(), Kind::State);
    }

    #[test]
    fn what_a_killed_process_left_in_the_trash_goes() {
        let top = tempfile::tempdir().unwrap();
        let left = top.path().join("trash/box.1/upper");
        fs::create_dir_all(&left).unwrap();
        Records::at(top.path().to_owned()).unwrap();
        assert!(!left.exists());
    }
}
