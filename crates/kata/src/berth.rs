// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A container's place in a sandbox, on disk: what is there says which containers a sandbox has, also after a monitor that was killed.
//!
//! ```text
//! <root>/<id>/               a container's; its existence is the lock on the id
//!     container.json         what `create` wrote
//!     cgroups                its control group
//!     sandbox ──► ../@<name>
//! <root>/@<name>/            a sandbox's; no id has an `@`
//!     monitor.sock lease.sock shim-monitor.sock state.json shared/ …
//!     containers/<id>        an empty file for each container; who can remove this directory removes the sandbox
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use base::file::{OwnedDir, remove_tree};
use base::{Context, Error, Kind, Result};
use nix::mount::{MntFlags, umount2};

use crate::cgroup::{self, unescape};
use crate::link::Link;

const SANDBOX: &str = "sandbox";
const CONTAINERS: &str = "containers";
/// As many sandboxes may be named after one id: a container may be made anew while others live on in the sandbox that it began.
const NAMES: u32 = 1000;

/// The sandbox of the container whose directory is `dir`.
pub fn sandbox(dir: &Path) -> PathBuf {
    dir.join(SANDBOX)
}

/// A new sandbox in `root`, named after its first container. On drop it goes if it has no container.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// Makes its directory, and the place of its first container. Errors: `Exists` when the id is taken.
    pub fn make(root: &Path, id: &str) -> Result<(Home, Berth)> {
        Home::named(root, id, OwnedDir::create)
    }

    /// As [`Home::make`], of a directory that has been made elsewhere, which moves.
    pub fn adopt(root: &Path, id: &str, dir: OwnedDir) -> Result<(Home, Berth)> {
        let mut moved = Some(dir);
        Home::named(root, id, |path| {
            let mut dir = moved
                .take()
                .ok_or_else(|| Error::new(Kind::Bug, "a directory moves once"))?;
            if let Err(e) = dir.rename(path) {
                moved = Some(dir);
                return Err(e);
            }
            Ok(dir)
        })
    }

    /// At the first name that nobody has. The container's directory is first, and says where the sandbox's will be: whoever is killed in
    /// between leaves nothing that is not found by the id.
    fn named(root: &Path, id: &str, mut have: impl FnMut(&Path) -> Result<OwnedDir>) -> Result<(Home, Berth)> {
        fs::create_dir_all(root).attempt(|| format!("create directory {}", root.display()))?;
        let mut berth = Berth::lock(root, id)?;
        for number in 0..NAMES {
            let name = match number {
                0 => format!("@{id}"),
                number => format!("@{id}@{number}"),
            };
            let path = root.join(&name);
            if path.exists() {
                continue;
            }
            berth.link(&path)?;
            let dir = have(&path)?;
            make_dir(&dir.path().join(CONTAINERS))?;
            let home = Home { dir: dir.keep() };
            berth.register(id)?;
            return Ok((home, berth));
        }
        let what = format!("find a free name for the sandbox of {id} in {}", root.display());
        Err(Error::new(Kind::Io, what).because(format!("all {NAMES} are taken")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let gone = close(&self.dir).and_then(|last| if last { remove(&self.dir) } else { Ok(()) });
        if let Err(e) = gone {
            log::warn!("{}", e.chain());
        }
    }
}

/// The place of one container. On drop it goes, unless it is kept.
#[derive(Debug)]
pub struct Berth {
    dir: PathBuf,
    /// Kept beside the link, for the time in which somebody removes that.
    home: Option<PathBuf>,
    armed: bool,
}

impl Berth {
    /// Takes it in the sandbox `home`, beside which the container's directory is made. Errors: `Exists` when the id is taken, `Gone`
    /// when the sandbox is being removed.
    pub fn take(home: &Path, id: &str) -> Result<Berth> {
        let mut berth = Berth::lock(home.parent().unwrap_or(home), id)?;
        berth.link(home)?;
        berth.register(id)?;
        Ok(berth)
    }

    /// The id is nobody else's.
    fn lock(root: &Path, id: &str) -> Result<Berth> {
        let dir = root.join(id);
        make_dir(&dir)?;
        Ok(Berth {
            dir,
            home: None,
            armed: true,
        })
    }

    /// Says which directory is the sandbox's.
    fn link(&mut self, home: &Path) -> Result<()> {
        self.home = Some(home.to_owned());
        let linked = symlink(
            Path::new("..").join(home.file_name().unwrap_or_default()),
            sandbox(&self.dir),
        );
        linked.attempt(|| format!("link {} to its sandbox", self.dir.display()))
    }

    /// Enters it into the sandbox's list. Somebody may delete the container by its id as soon as that is taken, and find no entry yet:
    /// then there is no container any more.
    fn register(&self, id: &str) -> Result<()> {
        let home = self.home.as_deref().unwrap_or(&self.dir);
        let entry = entry(home, id);
        match File::create_new(&entry) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let what = format!("the sandbox {} has ended", home.display());
                return Err(Error::new(Kind::Gone, what));
            }
            other => other.attempt(|| format!("create {}", entry.display()))?,
        };
        match fs::symlink_metadata(sandbox(&self.dir)) {
            Ok(_) => Ok(()),
            Err(e) => Err(e).attempt(|| format!("keep container {id}, which was deleted while it was made")),
        }
    }

    /// The container's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves it to another owner.
    pub fn keep(mut self) -> PathBuf {
        self.armed = false;
        std::mem::take(&mut self.dir)
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = clear_from(&self.dir, self.home.as_deref())
        {
            log::warn!("{}", e.chain());
        }
    }
}

/// Removes what is left of the container whose directory is `dir`, and of its sandbox if it was the last. The monitor has deleted the
/// container, or has ended; its mounts were its alone. Can be done again after it was interrupted.
pub fn clear(dir: &Path) -> Result<()> {
    clear_from(dir, home(dir)?.as_deref())
}

fn clear_from(dir: &Path, home: Option<&Path>) -> Result<()> {
    let mut last = false;
    if let Some(home) = home {
        let id = dir.file_name().unwrap_or_default().to_string_lossy();
        let entry = entry(home, &id);
        match fs::remove_file(&entry) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other.attempt(|| format!("remove {}", entry.display()))?,
        }
        last = close(home)?;
        let left = if last {
            sandbox::saved::end_leftovers(home)
        } else {
            others(home).and_then(|others| cgroup::hand_over(dir, &others, &processes(home)?))
        };
        if let Err(e) = left {
            log::warn!("{}", e.chain());
        }
    }
    if let Err(e) = cgroup::remove(dir) {
        log::warn!("{}", e.chain());
    }
    if let Some(home) = home.filter(|_| last) {
        remove(home)?;
    }
    remove(dir)
}

/// Removes a directory of ours. The monitor may still have the files of containers mounted there: those are never removed.
fn remove(dir: &Path) -> Result<()> {
    for mount in mounts(dir)?.iter().rev() {
        let detached = umount2(mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        detached.attempt(|| format!("unmount {}", mount.display()))?;
    }
    if let Some(mount) = mounts(dir)?.first() {
        let what = format!("remove directory {}", dir.display());
        let why = format!("{} is mounted: unmount it first", mount.display());
        return Err(Error::new(Kind::State, what).because(why));
    }
    remove_tree(dir)
}

/// What is mounted at or below `dir`, in the order in which it was.
fn mounts(dir: &Path) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/thread-self/mountinfo").attempt(|| "read /proc/thread-self/mountinfo".into())?;
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(&dir)).collect())
}

/// Removes the list of containers if none is left: then nobody can join any more. True when it is gone.
fn close(home: &Path) -> Result<bool> {
    match fs::remove_dir(home.join(CONTAINERS)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(e) => Err(e).attempt(|| format!("close the sandbox {}", home.display())),
    }
}

fn entry(home: &Path, id: &str) -> PathBuf {
    home.join(CONTAINERS).join(id)
}

/// The processes of a sandbox that are no container's: its monitor, as long as that lives, with the machine and its devices.
fn processes(home: &Path) -> Result<Vec<i32>> {
    let monitor = Link::open(home).and_then(|link| link.monitor());
    let saved = sandbox::saved::Saved::read(home)?;
    let (machine, device) = saved.map_or((None, None), |saved| (saved.machine, saved.device));
    let others = [machine.map(|machine| machine.0.pid), device.map(|device| device.pid)];
    Ok(monitor.ok().into_iter().chain(others.into_iter().flatten()).collect())
}

/// The directories of all containers that live in the sandbox of the one whose directory is `dir`.
pub fn companions(dir: &Path) -> Result<Vec<PathBuf>> {
    home(dir)?.map_or_else(|| Ok(Vec::new()), |home| others(&home))
}

/// The directories of the containers of a sandbox.
fn others(home: &Path) -> Result<Vec<PathBuf>> {
    let root = home.parent().unwrap_or(home);
    let list = home.join(CONTAINERS);
    let entries = match fs::read_dir(&list) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(|| format!("read directory {}", list.display()))?,
    };
    Ok(entries.flatten().map(|entry| root.join(entry.file_name())).collect())
}

/// The sandbox's own path; none for a container that was not given one yet.
fn home(dir: &Path) -> Result<Option<PathBuf>> {
    let link = sandbox(dir);
    match fs::read_link(&link) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            let target = other.attempt(|| format!("read link {}", link.display()))?;
            let name = target.file_name().unwrap_or_default();
            Ok(Some(dir.with_file_name(name)))
        }
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o711).create(path);
    made.attempt(|| format!("create directory {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_container_takes_the_sandbox_along_in_any_order() {
        for order in [["a", "b"], ["b", "a"]] {
            let root = tempfile::tempdir().unwrap();
            let (home, first) = Home::make(root.path(), "a").unwrap();
            for berth in [first, Berth::take(home.path(), "b").unwrap()] {
                assert_eq!(sandbox(&berth.keep()).canonicalize().unwrap(), home.path());
            }
            let mut all = companions(&root.path().join(order[0])).unwrap();
            all.sort();
            assert_eq!(all, ["a", "b"].map(|id| root.path().join(id)));
            assert_eq!(Berth::take(home.path(), "b").unwrap_err().kind(), Kind::Exists);
            assert_eq!(names(root.path()), ["@a", "a", "b"]);
            clear(&root.path().join(order[0])).unwrap();
            assert_eq!(names(root.path()), ["@a", order[1]]);
            clear(&root.path().join(order[1])).unwrap();
            assert!(names(root.path()).is_empty());
            clear(&root.path().join("a")).unwrap();
            assert!(companions(&root.path().join("a")).unwrap().is_empty());
        }
    }

    #[test]
    fn nobody_joins_a_sandbox_that_is_being_removed() {
        let root = tempfile::tempdir().unwrap();
        let (home, berth) = Home::make(root.path(), "a").unwrap();
        drop(berth);
        assert_eq!(Berth::take(home.path(), "b").unwrap_err().kind(), Kind::Gone);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn who_is_deleted_while_being_made_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let delete = || clear(&root.path().join("a")).unwrap();
        let made = Home::named(root.path(), "a", |path| {
            delete();
            OwnedDir::create(path)
        });
        assert_eq!(made.unwrap_err().kind(), Kind::NotFound);
        assert!(names(root.path()).is_empty());
        let made = Home::named(root.path(), "a", |path| {
            let dir = OwnedDir::create(path);
            delete();
            dir
        });
        assert!(made.is_err());
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_container_that_is_made_anew_begins_another_sandbox_while_the_old_one_lives() {
        let root = tempfile::tempdir().unwrap();
        let (old, first) = Home::make(root.path(), "a").unwrap();
        let second = Berth::take(old.path(), "b").unwrap();
        drop(first);
        let (new, first) = Home::make(root.path(), "a").unwrap();
        assert_eq!(names(root.path()), ["@a", "@a@1", "a", "b"]);
        drop((first, new));
        assert_eq!(names(root.path()), ["@a", "b"]);
        drop((second, old));
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn what_is_mounted_is_not_removed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            sandbox::share::isolate().unwrap();
            let root = tempfile::tempdir().unwrap();
            let volume = root.path().join("a volume");
            fs::create_dir(&volume).unwrap();
            fs::write(volume.join("file"), "x").unwrap();
            let (home, berth) = Home::make(root.path(), "a").unwrap();
            let (none, place) = (None::<&str>, home.path().join("m 0"));
            fs::create_dir(&place).unwrap();
            nix::mount::mount(Some(&volume), &place, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
            assert_eq!(mounts(home.path()).unwrap(), [place]);
            drop((berth, home));
            assert_eq!(names(root.path()), ["a volume"]);
            assert!(volume.join("file").exists());
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_was_interrupted_is_done_again() {
        let root = tempfile::tempdir().unwrap();
        // What is there after each step of the making and of the removal.
        for steps in 0..4 {
            let (home, berth) = Home::make(root.path(), "a").unwrap();
            let (home, dir) = (home.path().to_owned(), berth.keep());
            let undone = [
                (steps < 3).then(|| fs::remove_file(entry(&home, "a"))),
                (steps < 2).then(|| fs::remove_dir(home.join(CONTAINERS))),
                (steps < 1).then(|| fs::remove_dir(&home)),
            ];
            undone.into_iter().flatten().for_each(|step| step.unwrap());
            clear(&dir).unwrap();
            assert!(names(root.path()).is_empty(), "{steps}");
        }
    }
}
