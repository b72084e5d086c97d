// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directory in which machines wait. Whoever does not find it knows that there are none, which is all that a start without
//! standby machines pays.
//!
//! ```text
//! <pool>/keeper        locked by the keeper while it lives; its pid and how many machines it keeps
//!       /log           what the keeper complains of
//!       /<key>.<n>/    a machine that is made or waits: it becomes the directory of its sandbox
//!                door  where it is asked for, once it waits
//!                about its processes, for people and tests
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use config::Config;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

const LOCK: &str = "keeper";
const LOG: &str = "log";
/// Below a machine's directory.
pub const DOOR: &str = "door";
pub const ABOUT: &str = "about";

/// See the module.
#[derive(Debug, Clone)]
pub struct Pool {
    dir: PathBuf,
}

/// The keeper, as it has written itself down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    pub pid: i32,
    pub count: usize,
}

/// The processes of a machine that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub monitor: i32,
    pub processes: Vec<i32>,
    pub vcpus: u32,
    pub memory_mib: u64,
}

impl Pool {
    /// That of a configuration. It need not exist.
    pub fn of(config: &Config) -> Pool {
        Pool {
            dir: config.standby.directory.clone(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// Becomes its keeper. Errors: `State` when there is one.
    pub fn lock(&self, count: usize) -> Result<Flock<File>> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&self.dir)
            .attempt(|| format!("create directory {}", self.dir.display()))?;
        let path = self.dir.join(LOCK);
        let what = || format!("lock {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let mut lock = match Flock::lock(file.attempt(what)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                let why = "machines are kept in it already: `kata standby stop` ends them";
                return Err(Error::new(Kind::State, what()).because(why));
            }
            Err((_, e)) => return Err(e).attempt(what),
        };
        let pid = i32::try_from(std::process::id()).context(Kind::Bug, what)?;
        let about = serde_json::to_vec(&Keeper { pid, count }).context(Kind::Bug, what)?;
        lock.set_len(0).and_then(|()| lock.write_all(&about)).attempt(what)?;
        Ok(lock)
    }

    /// Who keeps it now.
    pub fn keeper(&self) -> Result<Option<Keeper>> {
        let path = self.dir.join(LOCK);
        let what = || format!("look at {}", path.display());
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.attempt(what)?,
        };
        let mut text = String::new();
        file.read_to_string(&mut text).attempt(what)?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            // It may be about to write.
            Err((_, Errno::EWOULDBLOCK)) => Ok(serde_json::from_str(&text).ok()),
            Err((_, e)) => Err(e).attempt(what),
            Ok(_) => Ok(None),
        }
    }

    /// The names of all machines in it, the oldest first.
    pub fn names(&self) -> Result<Vec<String>> {
        let what = || format!("list {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.attempt(what)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.attempt(what)?.file_name().into_string().unwrap_or_default();
            if let Some(number) = number(&name) {
                names.push((number, name));
            }
        }
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// Whether there may be machines: without looking at any.
    pub fn exists(&self) -> bool {
        self.dir.join(LOCK).exists()
    }

    /// What the machine `name` consists of, once it waits.
    pub fn about(&self, name: &str) -> Option<About> {
        let text = fs::read(self.dir.join(name).join(ABOUT)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes all that nobody owns. To be called by whoever has locked it, or when it is known that nobody has.
    pub fn sweep(&self) -> Result<()> {
        self.names()?
            .iter()
            .try_for_each(|name| base::file::remove_tree(&self.dir.join(name)))
    }

    /// Removes the directory, once nothing is in it that matters.
    pub fn remove(&self) -> Result<()> {
        self.sweep()?;
        base::file::remove_tree(&self.dir)
    }
}

/// The name of machine `number` with this key.
pub fn name(key: &str, number: u64) -> String {
    format!("{}.{number}", short(key))
}

/// Whether the machine `name` has this key.
pub fn fits(name: &str, key: &str) -> bool {
    name.split('.').next() == Some(short(key))
}

fn short(key: &str) -> &str {
    key.get(..16).unwrap_or(key)
}

fn number(name: &str) -> Option<u64> {
    let (key, number) = name.split_once('.')?;
    let hexadecimal = key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_key_and_the_order() {
        let top = tempfile::tempdir().unwrap();
        let pool = Pool {
            dir: top.path().join("pool"),
        };
        assert!(!pool.exists() && pool.names().unwrap().is_empty() && pool.keeper().unwrap().is_none());
        let lock = pool.lock(3).unwrap();
        assert_eq!(pool.lock(1).unwrap_err().kind(), Kind::State);
        assert_eq!(pool.keeper().unwrap().unwrap().count, 3);
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        for (key, number) in [(&one, 10), (&one, 9), (&other, 1)] {
            fs::create_dir(pool.dir.join(name(key, number))).unwrap();
        }
        let names = pool.names().unwrap();
        assert_eq!(names, [name(&other, 1), name(&one, 9), name(&one, 10)]);
        assert!(fits(&names[1], &one) && !fits(&names[0], &one));
        drop(lock);
        assert!(pool.keeper().unwrap().is_none(), "the one who wrote it has gone");
        pool.remove().unwrap();
        assert!(!pool.dir.exists());
    }
}
