// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How much of its machine the guest uses. Processors and memory that it has not booted with are there all the time; the kernel takes
//! them up and lays them down again one by one, a processor or a block of memory at a time.
//!
//! Memory for later is a "soft reserved" range, which `dax_hmem` offers in pieces and `kmem` makes memory of. A block that is laid
//! down stays known to the kernel, so that it is taken up again at once.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;

use crate::modules;

/// So much memory whose content can be moved goes with each part of the kernel's own, in which its tables are.
const MOVABLE_SHARE: u64 = 4;
/// What must be left when a block of memory is laid down, bytes: what is in it has to go somewhere.
const RESERVE: u64 = 64 << 20;
/// How long a block may take to be emptied; the kernel itself would try for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the driver may take to offer memory.
const APPEARANCE: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_millis(2);

/// What is asked for, or was reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Processors in use.
    pub vcpus: u32,
    /// Bytes beyond what it has booted with.
    pub more_memory: u64,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Reached {
    /// How large the guest is now.
    pub size: Size,
    /// Addresses that it does not use.
    pub unused: Vec<Range<u64>>,
    /// What kept it from more, or from less.
    pub reasons: Vec<String>,
}

/// Makes the guest `wanted`, with memory at `places`, as far as that goes. Blocks, for seconds if memory that is in use is laid down.
pub fn resize(wanted: &Size, places: &[Range<u64>]) -> Result<Reached> {
    if wanted.vcpus == 0 {
        return Err(Error::new(Kind::Invalid, "a guest without processors"));
    }
    let system = System::at("/sys");
    let processors = system.set_processors(wanted.vcpus);
    let memory = system.set_memory(wanted.more_memory, places);
    let failed = [processors, memory].into_iter().filter_map(Result::err);
    let mut reached = Reached {
        reasons: failed.map(|e| e.chain()).collect(),
        ..Reached::default()
    };
    let online = system.processors()?.iter().filter(|cpu| cpu.online).count();
    reached.size.vcpus = u32::try_from(online).unwrap_or(u32::MAX);
    let (size, blocks) = system.blocks(places)?;
    for block in &blocks {
        let (start, end) = (block.number * size, (block.number + 1) * size);
        match reached.unused.last_mut() {
            _ if block.online => reached.size.more_memory += size,
            Some(last) if last.end == start => last.end = end,
            _ => reached.unused.push(start..end),
        }
    }
    Ok(reached)
}

#[derive(Debug)]
struct Processor {
    number: u32,
    online: bool,
}

/// A piece of memory as the kernel handles it.
#[derive(Debug)]
struct Block {
    number: u64,
    /// The kernel describes it.
    known: bool,
    online: bool,
}

/// The kernel's files.
#[derive(Debug)]
struct System {
    root: PathBuf,
}

impl System {
    fn at(root: impl Into<PathBuf>) -> System {
        System { root: root.into() }
    }

    fn write(&self, path: &str, value: &str) -> Result<()> {
        put(&self.root.join(path), value)
    }

    fn read(&self, path: &str) -> Result<String> {
        let path = self.root.join(path);
        let text = fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// All that there are, by number.
    fn processors(&self) -> Result<Vec<Processor>> {
        let dir = self.root.join("devices/system/cpu");
        let what = || format!("list {}", dir.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(&dir).attempt(what)? {
            let name = entry.attempt(what)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
            let Some(number) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            // The first one cannot be laid down, and has no file.
            let online = self.read(&format!("devices/system/cpu/cpu{number}/online"));
            let online = number == 0 || online.is_ok_and(|online| online == "1");
            all.push(Processor { number, online });
        }
        all.sort_by_key(|cpu| cpu.number);
        Ok(all)
    }

    fn set_processors(&self, wanted: u32) -> Result<()> {
        let all = self.processors()?;
        let mut online = u32::try_from(all.iter().filter(|cpu| cpu.online).count()).unwrap_or(u32::MAX);
        let set = |cpu: &Processor, value| self.write(&format!("devices/system/cpu/cpu{}/online", cpu.number), value);
        for cpu in all.iter().filter(|cpu| !cpu.online) {
            if online < wanted {
                set(cpu, "1")?;
                online += 1;
            }
        }
        for cpu in all.iter().rev().filter(|cpu| cpu.online && cpu.number > 0) {
            if online > wanted {
                set(cpu, "0")?;
                online -= 1;
            }
        }
        if online < wanted {
            let what = format!("the machine has {} processors, not {wanted}", all.len());
            return Err(Error::new(Kind::Unsupported, what));
        }
        Ok(())
    }

    /// The size of a block, and the blocks that lie in `places`, in that order.
    fn blocks(&self, places: &[Range<u64>]) -> Result<(u64, Vec<Block>)> {
        let size = self.read("devices/system/memory/block_size_bytes")?;
        let size = u64::from_str_radix(&size, 16).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| Error::new(Kind::Bug, "the size of a block of memory is no number"))?;
        let numbers = places
            .iter()
            .flat_map(|place| place.start.div_ceil(size)..place.end / size);
        let blocks = numbers.map(|number| {
            let state = self.read(&format!("devices/system/memory/memory{number}/state"));
            Block {
                number,
                known: state.is_ok(),
                online: state.is_ok_and(|state| state == "online"),
            }
        });
        Ok((size, blocks.collect()))
    }

    fn set_memory(&self, wanted: u64, places: &[Range<u64>]) -> Result<()> {
        let (size, mut blocks) = self.blocks(places)?;
        let online = blocks.iter().filter(|block| block.online).count();
        let wanted = usize::try_from(wanted.div_ceil(size)).unwrap_or(usize::MAX);
        let Some(missing) = wanted.checked_sub(online) else {
            return self.lay_down(size, &blocks, online - wanted);
        };
        let unknown = blocks.iter().filter(|block| !block.online).take(missing);
        let unknown: Vec<u64> = unknown.filter(|block| !block.known).map(|block| block.number).collect();
        if !unknown.is_empty() {
            self.make_known(size, &unknown, places)?;
            blocks = self.blocks(places)?.1;
        }
        let mut left = missing;
        let ready = blocks.iter().filter(|block| block.known && !block.online);
        for block in ready.take(missing) {
            self.take_up(size, block.number)?;
            left -= 1;
        }
        if left > 0 {
            let what = format!("the machine has no more memory than {} MiB", self.total()? >> 20);
            return Err(Error::new(Kind::Unsupported, what));
        }
        Ok(())
    }

    /// Bytes of memory that the guest has by now.
    fn total(&self) -> Result<u64> {
        let text = fs::read_to_string("/proc/meminfo").attempt(|| "read /proc/meminfo".into())?;
        Ok(bytes(&text, "MemTotal:"))
    }

    /// Has the kernel describe the blocks `numbers`, which are all behind those of their place that it knows.
    fn make_known(&self, size: u64, numbers: &[u64], places: &[Range<u64>]) -> Result<()> {
        modules::load_later(&["dax_hmem", "kmem"])?;
        // We take them up ourselves, in the right zone.
        self.write("devices/system/memory/auto_online_blocks", "offline")?;
        for place in places {
            let inside = |number: &&u64| place.contains(&(**number * size));
            let count = u64::try_from(numbers.iter().filter(inside).count()).unwrap_or_default();
            if count > 0 {
                self.make_piece(place, size, count * size)?;
            }
        }
        Ok(())
    }

    /// Cuts `bytes` from what is left of the place, and makes memory of them.
    fn make_piece(&self, place: &Range<u64>, size: u64, bytes: u64) -> Result<()> {
        let region = self.region(place)?;
        let pieces = region.pieces()?;
        // Where the place does not begin with a block, the first piece has the bytes before.
        let lead = if pieces.iter().all(|piece| piece.empty) {
            place.start.next_multiple_of(size) - place.start
        } else {
            0
        };
        let empty = |pieces: Vec<Piece>| pieces.into_iter().find(|piece| piece.empty);
        let piece = match empty(pieces) {
            Some(piece) => piece,
            None => {
                put(&region.path.join("dax_region/create"), "1")?;
                let what = || Error::new(Kind::Bug, format!("{} makes no piece", region.path.display()));
                empty(region.pieces()?).ok_or_else(what)?
            }
        };
        let length = region.path.join(&piece.name).join("size");
        put(&length, &(lead + bytes).to_string())?;
        let made = self.write("bus/dax/drivers/kmem/new_id", &piece.name);
        if made.is_err() {
            // Free for the next time; the failure itself is what counts.
            let _ = put(&length, "0");
        }
        made
    }

    /// The driver's directory of a place.
    fn region(&self, place: &Range<u64>) -> Result<Region> {
        let (dir, driver) = (
            self.root.join("bus/platform/devices"),
            self.root.join("bus/dax/drivers/kmem"),
        );
        let begin = Instant::now();
        while driver.exists() && begin.elapsed() < APPEARANCE {
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            let mut regions = entries.map(|entry| Region { path: entry.path() });
            if let Some(region) = regions.find(|region| region.start() == Some(place.start)) {
                return Ok(region);
            }
            thread::sleep(REST);
        }
        let what = "the guest's kernel cannot add memory: dax_hmem or kmem is missing, in it or in the guest image";
        Err(Error::new(Kind::Unsupported, what))
    }

    /// As memory whose content can be moved, so that it can be laid down again; where there would be too much of that kind, as any.
    fn take_up(&self, size: u64, number: u64) -> Result<()> {
        let (kernel, movable) = zones(&fs::read_to_string("/proc/zoneinfo").unwrap_or_default());
        let fits = movable.saturating_add(size) <= kernel.saturating_mul(MOVABLE_SHARE);
        let how = if fits { "online_movable" } else { "online_kernel" };
        self.write(&format!("devices/system/memory/memory{number}/state"), how)
    }

    /// Takes `count` blocks from the guest, the last ones first, as far as their content has another place.
    fn lay_down(&self, size: u64, blocks: &[Block], count: usize) -> Result<()> {
        let (mut left, mut why) = (count, None);
        for block in blocks.iter().rev().filter(|block| block.online) {
            if left == 0 {
                break;
            }
            let free = bytes(
                &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
                "MemAvailable:",
            );
            if free < size + RESERVE {
                let what = format!("memory is in use: {} MiB are available", free >> 20);
                why = Some(Error::new(Kind::State, what));
                break;
            }
            let path = format!("devices/system/memory/memory{}/state", block.number);
            match write_for(&self.root.join(path), "offline", PATIENCE) {
                Ok(()) => left -= 1,
                Err(e) => why = Some(e),
            }
        }
        match why {
            Some(why) if left > 0 => Err(why),
            _ => Ok(()),
        }
    }
}

/// A range of memory for later.
#[derive(Debug)]
struct Region {
    path: PathBuf,
}

#[derive(Debug)]
struct Piece {
    name: String,
    empty: bool,
}

impl Region {
    fn pieces(&self) -> Result<Vec<Piece>> {
        let what = || format!("list {}", self.path.display());
        let mut pieces = Vec::new();
        for entry in fs::read_dir(&self.path).attempt(what)? {
            let name = entry.attempt(what)?.file_name().to_string_lossy().into_owned();
            let numbered = name.strip_prefix("dax").is_some_and(|rest| rest.contains('.'));
            let size = fs::read_to_string(self.path.join(&name).join("size"));
            if let (true, Ok(size)) = (numbered, size) {
                let empty = size.trim() == "0";
                pieces.push(Piece { name, empty });
            }
        }
        Ok(pieces)
    }

    /// The first address; none if it is another device's directory.
    fn start(&self) -> Option<u64> {
        // A piece without size says where the region begins, others where they do: one of them there.
        let pieces = self.path.join("dax_region").exists().then(|| self.pieces().ok())??;
        let resource = |piece: &Piece| {
            let text = fs::read_to_string(self.path.join(&piece.name).join("resource")).ok()?;
            number(text.trim())
        };
        pieces.iter().filter_map(resource).min()
    }
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn put(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).attempt(|| format!("write {value} to {}", path.display()))
}

/// Bytes of memory that the kernel may use for itself, and that it may not: from `/proc/zoneinfo`.
fn zones(text: &str) -> (u64, u64) {
    let (mut kernel, mut movable, mut zone) = (0, 0, "");
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("Node"), _, Some("zone"), Some(name)) => zone = name,
            (Some("present"), Some(pages), ..) => {
                let bytes = pages.parse::<u64>().unwrap_or_default() * 4096;
                match zone {
                    "Movable" => movable += bytes,
                    "Device" => {}
                    _ => kernel += bytes,
                }
            }
            _ => {}
        }
    }
    (kernel, movable)
}

/// A line of `/proc/meminfo`, in bytes.
fn bytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Writes a value that the kernel may be busy with for ever: a signal ends that. Errors: `Timeout` then.
fn write_for(path: &Path, value: &'static str, patience: Duration) -> Result<()> {
    let what = || format!("write {value} to {}", path.display());
    let (told, known) = mpsc::channel::<Pthread>();
    let target = path.to_owned();
    let writer = thread::Builder::new().name("memory".into()).spawn(move || {
        // Nobody listens only if nobody waits.
        let _ = told.send(pthread_self());
        // A whole value, and not again after a signal.
        let mut file = File::options().write(true).open(&target)?;
        file.write(value.as_bytes()).map(drop)
    });
    let writer = writer.attempt(what)?;
    let begin = Instant::now();
    while !writer.is_finished() && begin.elapsed() < patience {
        thread::sleep(REST);
    }
    let late = !writer.is_finished();
    if let (true, Ok(thread)) = (late, known.recv()) {
        while !writer.is_finished() {
            // One that the reaper takes for the end of a child. The thread is joined below: until then it has its name.
            let _ = pthread_kill(thread, Signal::SIGCHLD);
            thread::sleep(REST);
        }
    }
    match writer.join() {
        Ok(Err(e)) if late && e.kind() == ErrorKind::Interrupted => Err(e).context(Kind::Timeout, what),
        Ok(done) => done.attempt(what),
        Err(_) => Err(Error::new(Kind::Bug, what())),
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    const BLOCK: u64 = 128 << 20;

    /// A kernel's files, as far as plain ones can play them: processors, and blocks of memory.
    fn system(cpus: u32, online: u32, blocks: &[(u64, &str)]) -> (tempfile::TempDir, System) {
        let top = tempfile::tempdir().unwrap();
        let put = |path: String, text: &str| {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for cpu in 0..cpus {
            let state = if cpu < online { "1\n" } else { "0\n" };
            put(format!("devices/system/cpu/cpu{cpu}/topology"), "");
            if cpu > 0 {
                put(format!("devices/system/cpu/cpu{cpu}/online"), state);
            }
        }
        put("devices/system/cpu/cpuidle/driver".into(), "none");
        put("devices/system/memory/block_size_bytes".into(), "8000000\n");
        for (number, state) in blocks {
            put(format!("devices/system/memory/memory{number}/state"), state);
        }
        let system = System::at(top.path());
        (top, system)
    }

    fn online(system: &System) -> Vec<u32> {
        let all = system.processors().unwrap();
        all.iter().filter(|cpu| cpu.online).map(|cpu| cpu.number).collect()
    }

    #[test]
    fn processors_come_in_order_and_go_in_reverse() {
        let (_top, system) = system(4, 1, &[]);
        system.set_processors(3).unwrap();
        assert_eq!(online(&system), [0, 1, 2]);
        system.set_processors(2).unwrap();
        assert_eq!(online(&system), [0, 1]);
        system.set_processors(1).unwrap();
        assert_eq!(online(&system), [0]);
        let error = system.set_processors(9).unwrap_err();
        assert_eq!(error.chain(), "the machine has 4 processors, not 9");
        assert_eq!(online(&system), [0, 1, 2, 3], "as many as there are");
    }

    #[test]
    fn blocks_are_those_that_lie_in_the_places() {
        let (_top, system) = system(1, 1, &[(1, "online"), (2, "offline"), (5, "online")]);
        let places = [BLOCK..4 * BLOCK, 5 * BLOCK - 4096..6 * BLOCK + 4096];
        let (size, blocks) = system.blocks(&places).unwrap();
        let seen: Vec<_> = blocks
            .iter()
            .map(|block| (block.number, block.known, block.online))
            .collect();
        assert_eq!(size, BLOCK);
        assert_eq!(
            seen,
            [(1, true, true), (2, true, false), (3, false, false), (5, true, true)]
        );
    }

    #[test]
    fn blocks_that_are_known_are_taken_up_and_the_last_are_laid_down_first() {
        let (top, system) = system(1, 1, &[(1, "offline"), (2, "offline"), (3, "offline")]);
        let place = BLOCK..4 * BLOCK;
        let places = slice::from_ref(&place);
        let path = |number: u64| {
            let path = format!("devices/system/memory/memory{number}/state");
            top.path().join(path)
        };
        let state = |number: u64| fs::read_to_string(path(number)).unwrap();
        system.set_memory(BLOCK + 1, places).unwrap();
        let states = [1, 2, 3].map(state);
        assert!(
            states[0].starts_with("online_") && states[1].starts_with("online_"),
            "{states:?}"
        );
        assert_eq!(states[2], "offline");
        // As far as this host's own memory, which is looked at, has room.
        for number in [1, 2, 3] {
            fs::write(path(number), "online").unwrap();
        }
        system.set_memory(BLOCK, places).unwrap();
        assert_eq!(state(1), "online");
        assert!(state(2).starts_with("offline") && state(3).starts_with("offline"));
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let zones = zones(
            "Node 0, zone      DMA\n  pages free 1\n        present  10\nNode 0, zone   Movable\n        present  \
             3\nNode 0, zone   Device\n        present  9\n",
        );
        assert_eq!(zones, (40960, 12288));
        assert_eq!(
            bytes("MemFree: 1 kB\nMemAvailable:     2048 kB\n", "MemAvailable:"),
            2 << 20
        );
        assert_eq!((number("0x100"), number("100")), (Some(256), None));
    }
}
