// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The directory that holds templates, each under its key. One process at a time makes one, in a directory that gets its name
//! when it is whole: whoever looks finds all of it or nothing.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::{Context, Kind, Result, file};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::manifest::Manifest;
use super::{Recipe, SERVED, Template};

const LOCK: &str = ".lock";
/// Where a template is made; only the holder of the lock touches it.
const FRESH: &str = ".new";
/// Begins the names of templates that are being removed: whoever looks finds all of one or nothing, also when this is cut short.
const GONE: &str = ".gone";
/// Marks the time of a failure.
const FAILED: &str = ".failed";
/// How long nobody tries again in the background.
const PAUSE: Duration = Duration::from_secs(600);
/// More than so many are not kept; each has some 80 MiB.
const MOST: usize = 8;

/// See the module.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// The right to make templates.
#[derive(Debug)]
pub struct Built {
    fresh: file::OwnedDir,
    store: Store,
    _lock: Flock<File>,
}

impl Store {
    /// That which has `template`.
    pub fn of(template: &Template) -> Store {
        Store::at(template.dir.parent().unwrap_or(&template.dir))
    }

    /// The store in a directory, which need not exist.
    pub fn at(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The template with this key, if there is one. Errors: it is damaged.
    pub fn find(&self, key: &str) -> Result<Option<Template>> {
        let dir = self.dir.join(key);
        match Manifest::read(&dir) {
            Ok(manifest) if manifest.key == key && manifest.recipe.key() == key => Ok(Some(Template { dir, manifest })),
            Ok(_) => {
                let what = format!("{} holds another template", dir.display());
                Err(base::Error::new(Kind::Invalid, what))
            }
            Err(_) if !dir.exists() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks for the right to make a template: waits for it, or has none when another process holds it. What a process that was
    /// killed left is removed.
    pub fn begin(&self, wait: bool) -> Result<Option<Built>> {
        let path = self.dir.join(LOCK);
        let what = || format!("lock {}", path.display());
        fs::create_dir_all(&self.dir).attempt(|| format!("create directory {}", self.dir.display()))?;
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let how = if wait {
            FlockArg::LockExclusive
        } else {
            FlockArg::LockExclusiveNonblock
        };
        let lock = match Flock::lock(lock.attempt(what)?, how) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e).attempt(what),
        };
        let fresh = self.dir.join(FRESH);
        file::remove_tree(&fresh)?;
        for rest in self.names()?.iter().filter(|name| name.starts_with(GONE)) {
            file::remove_tree(&self.dir.join(rest))?;
        }
        Ok(Some(Built {
            fresh: file::OwnedDir::create(&fresh)?,
            store: self.clone(),
            _lock: lock,
        }))
    }

    /// Remembers that making one has failed.
    pub fn note_failure(&self) -> Result<()> {
        file::replace(&self.dir.join(FAILED), b"")
    }

    /// Whether making one has failed a short time ago: it is not tried for each machine again.
    pub fn failed_lately(&self) -> bool {
        let failed = fs::metadata(self.dir.join(FAILED)).and_then(|found| found.modified());
        failed.is_ok_and(|at| at.elapsed().is_ok_and(|since| since < PAUSE))
    }

    /// All that can be read, the one that was made last first.
    pub fn list(&self) -> Result<Vec<Template>> {
        let mut found: Vec<(SystemTime, Template)> = Vec::new();
        for key in self.keys()? {
            let dir = self.dir.join(&key);
            let made = fs::metadata(&dir).and_then(|found| found.modified());
            match (Manifest::read(&dir), made) {
                (Ok(manifest), Ok(made)) => found.push((made, Template { dir, manifest })),
                (Err(e), _) => log::warn!("skip template {key}: {}", e.chain()),
                _ => {}
            }
        }
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        Ok(found.into_iter().map(|(_, template)| template).collect())
    }

    /// The keys that begin with `start`.
    pub fn matching(&self, start: &str) -> Result<Vec<String>> {
        let mut keys = self.keys()?;
        keys.retain(|key| key.starts_with(start));
        Ok(keys)
    }

    /// Removes one by its key; machines that are being made of it have read it, or begin without.
    pub fn remove(&self, key: &str) -> Result<()> {
        let dir = self.dir.join(key);
        // Another one may remove the same at the same time.
        let gone = self.dir.join(format!("{GONE}.{key}.{}", std::process::id()));
        match fs::rename(&dir, &gone) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            renamed => {
                renamed.attempt(|| format!("remove {}", dir.display()))?;
                file::remove_tree(&gone)
            }
        }
    }

    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.names()?;
        keys.retain(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        keys.sort();
        Ok(keys)
    }

    /// Of all that is in the directory.
    fn names(&self) -> Result<Vec<String>> {
        let what = || format!("list {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.attempt(what)?,
        };
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let name = entry.attempt(what)?.file_name();
            Ok(name.into_string().unwrap_or_default())
        };
        entries.map(name).collect()
    }

    /// Removes what nobody can ask for any more, and the oldest beyond [`MOST`].
    fn prune(&self, keep: &str) -> Result<()> {
        let good = self.list()?;
        let wanted = |template: &&Template| template.manifest.key == keep || template.manifest.recipe.current();
        let kept: Vec<&str> = good
            .iter()
            .filter(wanted)
            .take(MOST)
            .map(|template| template.manifest.key.as_str())
            .collect();
        for key in self.keys()?.iter().filter(|key| !kept.contains(&key.as_str())) {
            self.remove(key)?;
        }
        Ok(())
    }
}

impl Built {
    /// Where the template's files go.
    pub fn dir(&self) -> &Path {
        self.fresh.path()
    }

    /// A file for whatever the server of its devices has to know; nothing is in it at first.
    pub fn served(&self) -> Result<File> {
        let path = self.dir().join(SERVED);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        file.attempt(|| format!("create {}", path.display()))
    }

    /// Gives the template its name, in place of a damaged one; others that are of no use any more go.
    pub fn finish(self, recipe: Recipe, vcpus: u32, memory_mib: u64) -> Result<Template> {
        let key = recipe.key();
        self.served()?;
        Manifest::write(self.dir(), recipe, vcpus, memory_mib)?;
        let dir = self.store.dir.join(&key);
        self.store.remove(&key)?;
        fs::rename(self.dir(), &dir).attempt(|| format!("rename {} to {key}", self.dir().display()))?;
        self.fresh.keep();
        // There need not be one.
        let _ = fs::remove_file(self.store.dir.join(FAILED));
        if let Err(e) = self.store.prune(&key) {
            log::warn!("remove old templates: {}", e.chain());
        }
        Ok(Template {
            manifest: Manifest::read(&dir)?,
            dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use base::Error;

    use super::*;
    use crate::template::{memory, write};

    fn made(store: &Store, recipe: &Recipe) -> Template {
        let built = store.begin(false).unwrap().unwrap();
        assert!(store.begin(false).unwrap().is_none(), "one at a time");
        let guest = memory(1).unwrap();
        guest.write_all_at(b"guest", 8192).unwrap();
        write(built.dir(), b"state", &guest).unwrap();
        built.served().unwrap().write_all_at(b"mount", 0).unwrap();
        built.finish(recipe.clone(), 1, 1).unwrap()
    }

    fn recipe(word: &str) -> Recipe {
        Recipe::new("b", vec![word.to_owned()], &[]).unwrap()
    }

    #[test]
    fn a_template_is_found_when_it_is_whole() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::at(top.path().join("t"));
        let recipe = recipe("w");
        assert!(store.find(&recipe.key()).unwrap().is_none());
        let template = made(&store, &recipe);
        assert_eq!(template.state().unwrap(), b"state");
        assert!(!template.is_proved());
        template.prove();
        assert!(store.find(&recipe.key()).unwrap().unwrap().is_proved());
        let copy = memory(1).unwrap();
        template.fill(&copy).unwrap();
        let mut bytes = [0; 5];
        copy.read_exact_at(&mut bytes, 8192).unwrap();
        assert_eq!(&bytes, b"guest");
        let names: Vec<_> = fs::read_dir(store.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "the lock and the template: {names:?}");
        store.remove(&recipe.key()).unwrap();
        assert!(store.find(&recipe.key()).unwrap().is_none() && store.list().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_template_is_told_and_replaced() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::at(top.path());
        let recipe = recipe("w");
        let template = made(&store, &recipe);
        let at = |name: &str| template.dir().join(name);
        fs::write(at("state"), b"other").unwrap();
        assert_eq!(template.state().unwrap_err().kind(), Kind::Invalid);
        File::options()
            .write(true)
            .open(at("memory"))
            .unwrap()
            .set_len(9)
            .unwrap();
        assert_eq!(store.find(&recipe.key()).unwrap_err().kind(), Kind::Invalid);
        fs::write(at("manifest.json"), b"{").unwrap();
        assert_eq!(store.find(&recipe.key()).unwrap_err().kind(), Kind::Invalid);
        fs::remove_file(at("manifest.json")).unwrap();
        assert_eq!(store.find(&recipe.key()).unwrap_err().kind(), Kind::NotFound);
        made(&store, &recipe).state().unwrap();
    }

    #[test]
    fn no_bit_and_no_length_can_change_unnoticed() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::at(top.path());
        let recipe = recipe("w");
        let dir = made(&store, &recipe).dir().to_owned();
        let whole = || -> Result<Vec<u8>> {
            let what = || Error::new(Kind::NotFound, "no template");
            let template = store.find(&recipe.key())?.ok_or_else(what)?;
            let copy = memory(1)?;
            template.fill(&copy)?;
            let mut bytes = vec![0; 1 << 20];
            copy.read_exact_at(&mut bytes, 0).unwrap();
            bytes.extend(template.state()?);
            let served = template.served()?.map_or(0, |file| file.metadata().unwrap().len());
            bytes.extend(served.to_le_bytes());
            Ok(bytes)
        };
        let before = whole().unwrap();
        let mut noticed = 0;
        for name in ["manifest.json", "state", "pages", "memory", "served"] {
            let path = dir.join(name);
            let content = fs::read(&path).unwrap();
            for at in (0..content.len()).step_by(1 + content.len() / 200) {
                let mut other = content.clone();
                other[at] ^= 1 << (at % 8);
                fs::write(&path, &other).unwrap();
                // Some bits of a manifest say nothing about the content.
                match whole() {
                    Ok(bytes) => assert!(bytes == before && name == "manifest.json", "{name}: byte {at}"),
                    Err(_) => noticed += 1,
                }
                fs::write(&path, &content[..at]).unwrap();
                assert!(whole().is_err(), "{name}: cut at {at}");
            }
            fs::remove_file(&path).unwrap();
            assert!(whole().is_err(), "{name} is gone");
            fs::write(&path, &content).unwrap();
        }
        assert!(noticed > 200, "{noticed}");
        assert!(whole().unwrap() == before);
    }

    #[test]
    fn rubbish_goes_and_so_do_templates_that_nobody_can_ask_for() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::at(top.path());
        let kernel = top.path().join("vmlinux");
        fs::write(&kernel, "one").unwrap();
        let old = Recipe::new("b", vec![], &[&kernel]).unwrap();
        made(&store, &old);
        fs::create_dir(store.dir().join(FRESH)).unwrap();
        fs::write(store.dir().join(FRESH).join("memory"), "half").unwrap();
        let gone = store.dir().join(format!("{GONE}.x.1"));
        fs::create_dir(&gone).unwrap();
        fs::write(gone.join("memory"), "half").unwrap();
        made(&store, &recipe("other"));
        assert_eq!(store.list().unwrap().len(), 2);
        assert!(!gone.exists());
        fs::remove_file(&kernel).unwrap();
        for n in 0..MOST + 2 {
            made(&store, &recipe(&n.to_string()));
        }
        assert!(store.find(&old.key()).unwrap().is_none());
        assert_eq!(store.list().unwrap().len(), MOST);
        assert!(store.find(&recipe("9").key()).unwrap().is_some());
    }
}
