// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which files of the host are watched (inotify) by processes of the guest. The kernel tells nobody who begins to watch, so it is asked
//! again and again, while the host wants to know and as seldom as is bearable.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::agent::{NextWatchesRequest, Watches};
use api::notice::WATCHES;
use base::{Context, Error, Kind, Result};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::lock::lock;
use crate::share::Shares;

/// Between two looks while something is watched, and while nothing is.
const BUSY: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(2);
/// A call ends after so long, whatever it has found: its caller may have gone.
const TURN: Duration = Duration::from_secs(30);
/// Files of a volume among which watched ones are searched.
const ENTRIES: usize = 50_000;
/// Directories that are searched last.
const LATE: [&str; 2] = ["node_modules", ".git"];

/// What is known of watched files.
#[derive(Debug, Default)]
pub struct Watching {
    /// By device and inode: the path in the share; none where it was not found.
    known: Mutex<HashMap<Mark, Option<String>>>,
}

impl Watching {
    /// Answers when the places below the volumes of `request` that are watched are others than those that it has seen.
    pub async fn next(self: &Arc<Self>, shares: &Arc<Shares>, request: NextWatchesRequest) -> Result<Watches> {
        let end = Instant::now() + TURN;
        let request = Arc::new(request);
        loop {
            let (this, shares, asked) = (Arc::clone(self), Arc::clone(shares), Arc::clone(&request));
            let found = spawn_blocking(move || this.look(&shares, &asked)).await;
            let found = found.unwrap_or_else(|e| Err(Error::new(Kind::Bug, "look for watches").because(e)))?;
            if found != request.seen || Instant::now() >= end {
                return Ok(Watches {
                    paths: found,
                    ..Watches::default()
                });
            }
            sleep(if found.is_empty() { QUIET } else { BUSY }).await;
        }
    }

    fn look(&self, shares: &Shares, request: &NextWatchesRequest) -> Result<Vec<String>> {
        let mut marks = BTreeSet::new();
        for fdinfo in notifiers()? {
            // Its process may have ended.
            let text = fs::read_to_string(&fdinfo).unwrap_or_default();
            marks.extend(text.lines().filter_map(Mark::parse));
        }
        let mut found = BTreeSet::new();
        // Without watches nobody looks at the host's files.
        let volumes: &[String] = if marks.is_empty() { &[] } else { &request.volumes };
        for path in volumes {
            let place = shares.find(&request.tag, path)?;
            match Volume::open(path, place) {
                Ok(volume) => found.extend(self.below(&volume, &marks)),
                // It has gone.
                Err(e) => log::debug!("{}", e.chain()),
            }
        }
        Ok(found.into_iter().take(WATCHES).collect())
    }

    /// Those of the marks that are of this volume, by their paths in the share.
    fn below(&self, volume: &Volume, marks: &BTreeSet<Mark>) -> Vec<String> {
        let of_it = marks.iter().filter(|mark| mark.device == volume.root.device);
        let mut known = lock(&self.known);
        let mut missing = BTreeSet::new();
        for mark in of_it.clone().filter(|mark| **mark != volume.root) {
            match known.get(mark) {
                Some(None) => {}
                Some(Some(path)) if volume.has(path, mark) => {}
                // New, or moved since.
                _ => {
                    missing.insert(*mark);
                }
            }
        }
        if !missing.is_empty() {
            let mut places = volume.search(&missing);
            known.extend(missing.into_iter().map(|mark| (mark, places.remove(&mark))));
        }
        let paths = of_it.filter_map(|mark| {
            if *mark == volume.root {
                return Some(volume.path.clone());
            }
            known.get(mark).cloned().flatten()
        });
        paths.filter(|path| path.starts_with(&volume.path)).collect()
    }
}

/// What `/proc` says of each inotify descriptor of the others.
fn notifiers() -> Result<Vec<PathBuf>> {
    const KIND: &str = "anon_inode:inotify";
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").attempt(|| "list processes".into())?.flatten() {
        let name = process.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_none_or(|pid| pid == std::process::id()) {
            continue;
        }
        let process = process.path();
        for descriptor in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            if fs::read_link(descriptor.path()).is_ok_and(|kind| kind == Path::new(KIND)) {
                found.push(process.join("fdinfo").join(descriptor.file_name()));
            }
        }
    }
    Ok(found)
}

/// A directory or file of the host that a container has.
#[derive(Debug)]
struct Volume {
    /// In its share.
    path: String,
    /// Where it is here.
    place: PathBuf,
    root: Mark,
}

impl Volume {
    fn open(path: &str, place: PathBuf) -> Result<Volume> {
        let found = fs::metadata(&place).attempt(|| format!("look at volume {path}"))?;
        Ok(Volume {
            path: path.to_owned(),
            place,
            root: Mark::of(&found),
        })
    }

    /// Whether this path in the share is still the marked file.
    fn has(&self, path: &str, mark: &Mark) -> bool {
        let below = Path::new(path).strip_prefix(&self.path);
        below.is_ok_and(|below| self.found(below, mark))
    }

    fn found(&self, below: &Path, mark: &Mark) -> bool {
        fs::symlink_metadata(self.place.join(below)).is_ok_and(|found| Mark::of(&found) == *mark)
    }

    /// Where the marked files are, as far as they are found: the shallowest first, and last where tools keep what nobody edits.
    fn search(&self, marks: &BTreeSet<Mark>) -> HashMap<Mark, String> {
        let mut found = HashMap::new();
        let (mut soon, mut last) = (VecDeque::from([PathBuf::new()]), VecDeque::new());
        let mut left = ENTRIES;
        while let Some(dir) = soon.pop_front().or_else(|| last.pop_front()) {
            for entry in fs::read_dir(self.place.join(&dir)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let below = dir.join(&name);
                let mark = Mark {
                    device: self.root.device,
                    inode: entry.ino(),
                };
                if marks.contains(&mark)
                    && self.found(&below, &mark)
                    && let Some(text) = below.to_str()
                {
                    found.insert(mark, format!("{}/{text}", self.path));
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let late = LATE.iter().any(|late| name == *late);
                    if late { &mut last } else { &mut soon }.push_back(below);
                }
                left -= 1;
                if left == 0 || found.len() == marks.len() {
                    return found;
                }
            }
        }
        found
    }
}

/// A file that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Mark {
    device: u64,
    inode: u64,
}

impl Mark {
    fn of(found: &fs::Metadata) -> Mark {
        Mark {
            device: found.st_dev(),
            inode: found.st_ino(),
        }
    }

    /// As `/proc/<pid>/fdinfo` has it: `inotify wd:1 ino:2 sdev:2e mask:fce ignored_mask:0 …`
    fn parse(line: &str) -> Option<Mark> {
        let fields = line.strip_prefix("inotify ")?;
        let number = |name: &str| {
            let mut words = fields.split_ascii_whitespace();
            let text = words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
            u64::from_str_radix(text?, 16).ok()
        };
        // As the kernel numbers devices inside: 20 bits of minor number.
        let device = u32::try_from(number("sdev")?).ok()?;
        Some(Mark {
            device: libc::makedev(device >> 20, device & 0xf_ffff),
            inode: number("ino")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let line = "inotify wd:1 ino:1f sdev:2e mask:fce ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:0000";
        let mark = Mark::parse(line).unwrap();
        assert_eq!((mark.inode, mark.device), (0x1f, libc::makedev(0, 0x2e)));
        let disk = Mark::parse(&line.replace("sdev:2e", "sdev:fe00003")).unwrap();
        assert_eq!(disk.device, libc::makedev(254, 3));
        for other in ["pos:\t0", "inotify wd:1", &line.replace("ino:1f", "ino:xf")] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_watched_is_found_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for below in ["src/deep", "node_modules/x"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        fs::write(dir.path().join("src/file"), "").unwrap();
        let watcher = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        for below in ["", "src/deep", "src/file", "node_modules/x"] {
            watcher
                .add_watch(&dir.path().join(below), AddWatchFlags::IN_CREATE)
                .unwrap();
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&watcher));
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let marks: BTreeSet<Mark> = text.lines().filter_map(Mark::parse).collect();
        let volume = Volume::open("c/m1", dir.path().to_owned()).unwrap();
        let watching = Watching::default();
        let look = || {
            let mut found = watching.below(&volume, &marks);
            found.sort();
            found
        };
        let all = ["c/m1", "c/m1/node_modules/x", "c/m1/src/deep", "c/m1/src/file"];
        assert_eq!(
            (look(), look()),
            (all.map(str::to_owned).to_vec(), all.map(str::to_owned).to_vec())
        );
        fs::rename(dir.path().join("src"), dir.path().join("moved")).unwrap();
        assert!(look().contains(&"c/m1/moved/deep".to_owned()));
        let ours = notifiers().unwrap();
        let own = format!("/proc/{}/", std::process::id());
        assert!(ours.iter().all(|fdinfo| !fdinfo.starts_with(&own)));
    }
}
