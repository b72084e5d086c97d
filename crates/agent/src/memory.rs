// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Memory of the guest as file systems that containers share (`/dev/shm` of a pod): one for each name, as long as a container has it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use base::{Context, Kind, Result};
use guest::FileSystem;

use crate::lock::lock;

/// They are mounted below.
const PLACE: &str = "/run/kata/memory";

/// All that somebody has.
#[derive(Debug, Default)]
pub struct Memories {
    known: Mutex<HashMap<String, Weak<Memory>>>,
    made: AtomicU64,
}

/// One, unmounted on drop.
#[derive(Debug)]
pub struct Memory(FileSystem);

impl Memories {
    /// The one with this name; made if nobody has it, with room for `bytes`.
    pub fn find(&self, name: &str, bytes: u64) -> Result<Arc<Memory>> {
        base::id::check(name).context(Kind::Invalid, || format!("use memory {name:?}"))?;
        let mut known = lock(&self.known);
        known.retain(|_, memory| memory.strong_count() > 0);
        if let Some(memory) = known.get(name).and_then(Weak::upgrade) {
            return Ok(memory);
        }
        // A path of its own: an older one of that name may be on its way out.
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let memory = Arc::new(Memory::make(&Path::new(PLACE).join(number.to_string()), bytes)?);
        known.insert(name.to_owned(), Arc::downgrade(&memory));
        Ok(memory)
    }
}

impl Memory {
    fn make(path: &Path, bytes: u64) -> Result<Memory> {
        let options = ["nosuid", "nodev", "noexec", "mode=1777", &format!("size={bytes}")].map(str::to_owned);
        FileSystem::mount("tmpfs", Path::new("shm"), &options, path).map(Memory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn one_for_each_name_as_long_as_somebody_has_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
            mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            let memories = Memories::default();
            let first = memories.find("8-1", 1 << 20).unwrap();
            let same = memories.find("8-1", 1 << 20).unwrap();
            let other = memories.find("8-2", 1 << 20).unwrap();
            assert_eq!(first.path(), same.path());
            assert_ne!(first.path(), other.path());
            fs::write(first.path().join("note"), "x").unwrap();
            drop(first);
            assert!(same.path().join("note").exists());
            drop(same);
            let fresh = memories.find("8-1", 1 << 20).unwrap();
            assert_eq!(fs::read_dir(fresh.path()).unwrap().count(), 0);
            assert!(fs::write(fresh.path().join("large"), vec![0; 2 << 20]).is_err());
            drop((fresh, other));
            assert_eq!(fs::read_dir(PLACE).unwrap().count(), 0);
            assert_eq!(memories.find("a/b", 1).unwrap_err().kind(), Kind::Invalid);
        });
        thread.join().unwrap();
    }
}
