// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is kept of one container, in a directory that is called by its name:
//!
//! ```text
//! record.json   who it is; written last, so that what has none is rubbish
//! ended.json    how its process ended; absent while it lives, and when nobody saw the end
//! bundle/       config.json, and an empty rootfs/ unless a directory is the root
//! upper/ work/  what it changed of its image
//! output        what a detached one printed
//! kata.log      what its monitor and shim log
//! ```
//!
//! The directory is locked while a container is made, ended or removed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use image::{Digest, Stack};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sandbox::passt::Port;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::user::Accounts;

/// Most bytes of a file of accounts.
const ACCOUNTS: u64 = 16 << 20;

/// Who a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub name: String,
    /// Full name of its image.
    pub image: String,
    pub command: Vec<String>,
    /// RFC 3339.
    pub created: String,
    /// Chain ids of the layers below it, which must stay.
    pub chains: Vec<String>,
    /// Directories that make its root, the topmost first.
    pub layers: Vec<PathBuf>,
    /// It goes when it has ended.
    pub remove: bool,
    /// Its output is kept.
    pub logged: bool,
    /// What `stop` sends.
    pub stop_signal: String,
    /// Published.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub code: u8,
    /// RFC 3339.
    pub at: String,
}

/// A container's directory.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
}

/// Nobody else makes, ends or removes the container.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Place {
    pub fn new(path: PathBuf) -> Place {
        Place { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("kata.log")
    }

    /// Waits for the lock. Errors: `NotFound` when the container has gone.
    pub fn hold(&self) -> Result<Held> {
        let held = self.lock(FlockArg::LockExclusive)?;
        held.ok_or_else(|| Error::new(Kind::Bug, "wait for a lock, in vain"))
    }

    /// None when another process has it.
    pub fn try_hold(&self) -> Result<Option<Held>> {
        self.lock(FlockArg::LockExclusiveNonblock)
    }

    fn lock(&self, how: FlockArg) -> Result<Option<Held>> {
        let tried = || format!("lock {}", self.path.display());
        let mut file = File::open(&self.path).attempt(tried)?;
        let ours = file.metadata().attempt(tried)?.ino();
        let held = loop {
            match Flock::lock(file, how) {
                Ok(held) => break held,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((back, Errno::EINTR)) => file = back,
                Err((_, e)) => return Err(e).attempt(tried),
            }
        };
        // It may have been removed meanwhile, and another one made.
        if fs::metadata(&self.path).attempt(tried)?.ino() != ours {
            return Err(Error::new(
                Kind::NotFound,
                format!("container {} has gone", self.name()),
            ));
        }
        Ok(Some(Held(held)))
    }

    /// None for what its maker never finished.
    pub fn record(&self) -> Result<Option<Record>> {
        read(&self.path.join("record.json"))
    }

    pub fn write(&self, record: &Record) -> Result<()> {
        write(&self.path.join("record.json"), record)
    }

    /// None while it lives, and when nobody saw its end.
    pub fn ended(&self) -> Result<Option<Ended>> {
        read(&self.path.join("ended.json"))
    }

    pub fn end(&self, code: u8) -> Result<()> {
        let ended = Ended { code, at: now() };
        write(&self.path.join("ended.json"), &ended)
    }

    /// Users and groups as the container has them now.
    pub fn accounts(&self, record: &Record) -> Result<Accounts> {
        let upper = Some(self.upper()).filter(|upper| upper.is_dir());
        let layers: Vec<PathBuf> = upper.into_iter().chain(record.layers.iter().cloned()).collect();
        let stack = Stack::open(&layers)?;
        let text = |path: &str| {
            let bytes = stack.read(Path::new(path), ACCOUNTS)?.unwrap_or_default();
            Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Accounts {
            passwd: text("/etc/passwd")?,
            group: text("/etc/group")?,
        })
    }
}

impl Record {
    /// The first digits of its id, for people.
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    pub fn digests(&self) -> Result<Vec<Digest>> {
        self.chains.iter().map(|chain| Digest::parse(chain)).collect()
    }
}

/// RFC 3339, UTC.
pub fn now() -> String {
    oci::state::timestamp(std::time::SystemTime::now().into())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let json = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.attempt(|| format!("read {}", path.display()))?,
    };
    let value = serde_json::from_slice(&json).context(Kind::Invalid, || format!("parse {}", path.display()))?;
    Ok(Some(value))
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec(value).context(Kind::Bug, || format!("write {}", path.display()))?;
    base::file::replace(path, &json)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One for tests.
    pub fn record(id: &str, name: &str) -> Record {
        Record {
            id: id.to_owned(),
            name: name.to_owned(),
            image: "rootfs:/x".into(),
            command: vec!["sleep".into(), "1".into()],
            created: "2026-11-24T10:00:00Z".into(),
            chains: Vec::new(),
            layers: Vec::new(),
            remove: false,
            logged: true,
            stop_signal: "TERM".into(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        assert_eq!((place.record().unwrap(), place.ended().unwrap()), (None, None));
        let record = record("abc", "box");
        place.write(&record).unwrap();
        place.end(3).unwrap();
        assert_eq!(place.record().unwrap(), Some(record));
        assert_eq!(place.ended().unwrap().unwrap().code, 3);
        fs::write(dir.path().join("record.json"), "{").unwrap();
        assert_eq!(place.record().unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn one_holds_it_and_only_while_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        fs::create_dir(&path).unwrap();
        let place = Place::new(path.clone());
        let held = place.try_hold().unwrap().unwrap();
        assert!(place.try_hold().unwrap().is_none());
        let waiter = std::thread::spawn({
            let place = place.clone();
            move || place.hold().map(|_| ())
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::rename(&path, dir.path().join("gone")).unwrap();
        fs::create_dir(&path).unwrap();
        drop(held);
        // Whether it waited or came late: it holds the new one or none, never the old one.
        if let Err(e) = waiter.join().unwrap() {
            assert_eq!(e.kind(), Kind::NotFound);
        }
        assert!(place.try_hold().unwrap().is_some());
        fs::remove_dir(&path).unwrap();
        assert_eq!(place.hold().unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn accounts_come_from_the_topmost_directory_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let (place, low) = (Place::new(dir.path().join("c")), dir.path().join("low"));
        for etc in [place.upper().join("etc"), low.join("etc")] {
            fs::create_dir_all(etc).unwrap();
        }
        fs::write(low.join("etc/passwd"), "low").unwrap();
        let mut record = record("a", "c");
        record.layers = vec![low];
        assert_eq!(place.accounts(&record).unwrap().passwd, "low");
        fs::write(place.upper().join("etc/passwd"), "high").unwrap();
        let accounts = place.accounts(&record).unwrap();
        assert_eq!((accounts.passwd.as_str(), accounts.group.as_str()), ("high", ""));
    }
}
