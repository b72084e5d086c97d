// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A guest's requests, one at a time.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use virtio::{Call, Queue};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

const REQUESTS: usize = 1;
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x8000;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const READDIRPLUS: u32 = 44;
const ROOT: u64 = 1;

fn share(root: &Path) -> Share<'_> {
    Share {
        root,
        tag: "kata",
        descriptors: File::open("/proc/self/fd").unwrap(),
        mounts: File::open("/proc/self/mountinfo").unwrap(),
        most_files: 100,
        handles: false,
        read_only: false,
        record: None,
    }
}

/// A guest that sends one request at a time.
struct Guest {
    device: Fs,
    act: Activation,
    count: u16,
}

impl Guest {
    fn new(root: &Path, read_only: bool) -> Guest {
        Guest::of(Share {
            read_only,
            ..share(root)
        })
    }

    fn of(share: Share<'_>) -> Guest {
        let mut guest = Guest::silent(share).unwrap();
        let body = [7_u32, 36, 1 << 20, (1 << 30) - 1].map(u32::to_le_bytes).concat();
        assert_eq!(guest.ask(INIT, 0, &body, true), Some(0));
        guest
    }

    /// One that has not mounted the share, or is a copy of one that has.
    fn silent(share: Share<'_>) -> io::Result<Guest> {
        let device = Fs::new(share);
        let memory = GuestMemoryMmap::<Bitmap>::from_ranges(&[(GuestAddress(0), 0x20000)]).unwrap();
        let mut ring = Ring::new(16).unwrap();
        ring.try_set_desc_table_address(GuestAddress(0)).unwrap();
        ring.try_set_avail_ring_address(GuestAddress(0x1000)).unwrap();
        ring.try_set_used_ring_address(GuestAddress(0x2000)).unwrap();
        ring.set_ready(true);
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let queue = Queue {
            ring,
            kick,
            call: Call::default(),
        };
        Ok(Guest {
            device: device?,
            act: Activation {
                mem: Memory::new(memory),
                features: 0,
                queues: vec![None, Some(queue)],
            },
            count: 0,
        })
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.act.mem.memory().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn describe(&self, index: u64, address: u64, len: u32, flags: u32, next: u16) {
        let flags = u16::try_from(flags).unwrap();
        let fields = [
            &address.to_le_bytes()[..],
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        self.put(index * 16, &fields.concat());
    }

    /// The error number of the answer, if there is one.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8], writable: bool) -> Option<i32> {
        let len = u32::try_from(40 + body.len()).unwrap();
        let mut message = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
        message.extend(7_u64.to_le_bytes());
        message.extend(node.to_le_bytes());
        message.extend([0; 16]);
        message.extend(body);
        self.put(REQUEST, &message);
        let flags = if writable { VRING_DESC_F_NEXT } else { 0 };
        self.describe(0, REQUEST, len, flags, 1);
        self.describe(1, ANSWER, 0x1000, VRING_DESC_F_WRITE, 0);
        self.put(0x1004 + 2 * u64::from(self.count % 16), &0_u16.to_le_bytes());
        let slot = 0x2004 + 8 * u64::from(self.count % 16);
        self.count += 1;
        self.put(0x1002, &self.count.to_le_bytes());
        self.device.queue(REQUESTS, &mut self.act).unwrap();
        let mem = self.act.mem.memory();
        assert_eq!(
            mem.read_obj::<u16>(GuestAddress(0x2002)).unwrap(),
            self.count,
            "every chain comes back"
        );
        let written: u32 = mem.read_obj(GuestAddress(slot + 4)).unwrap();
        (written > 0).then(|| -mem.read_obj::<i32>(GuestAddress(ANSWER + 4)).unwrap())
    }

    /// The number of an entry that is there.
    fn find(&mut self, parent: u64, name: &[u8]) -> u64 {
        assert_eq!(self.ask(LOOKUP, parent, name, true), Some(0), "{}", name.escape_ascii());
        self.told(16)
    }

    /// What is there in the last answer.
    fn told<T: ByteValued>(&self, at: u64) -> T {
        self.act.mem.memory().read_obj(GuestAddress(ANSWER + at)).unwrap()
    }

    /// The handle of an open directory.
    fn open(&mut self, dir: u64) -> u64 {
        assert_eq!(self.ask(OPENDIR, dir, &[0; 8], true), Some(0));
        self.told(16)
    }

    fn close(&mut self, dir: u64, handle: u64) {
        let body = [&handle.to_le_bytes()[..], &[0; 16]].concat();
        assert_eq!(self.ask(RELEASEDIR, dir, &body, true), Some(0));
    }

    /// A page of a directory's entries from `at` on, but for its own and its parent's.
    fn page(&mut self, opcode: u32, dir: u64, handle: u64, at: u64) -> Vec<Listed> {
        let body = [
            &handle.to_le_bytes()[..],
            &at.to_le_bytes(),
            &4080_u32.to_le_bytes(),
            &[0; 20],
        ]
        .concat();
        assert_eq!(self.ask(opcode, dir, &body, true), Some(0));
        let (end, mut begin) = (u64::from(self.told::<u32>(0)), 16);
        let mut page = Vec::new();
        while begin < end {
            let entry = if opcode == READDIRPLUS { 128 } else { 0 };
            let len: u32 = self.told(begin + entry + 16);
            let name = (0..u64::from(len)).map(|i| self.told(begin + entry + 24 + i)).collect();
            page.push(Listed {
                offset: self.told(begin + entry + 8),
                node: if entry > 0 { self.told(begin) } else { 0 },
                name: String::from_utf8(name).unwrap(),
            });
            begin += (entry + 24 + u64::from(len)).next_multiple_of(8);
        }
        page
    }

    /// All entries from `at` on.
    fn list(&mut self, opcode: u32, dir: u64, handle: u64, mut at: u64) -> Vec<Listed> {
        let mut all = Vec::new();
        loop {
            let page = self.page(opcode, dir, handle, at);
            let Some(last) = page.last() else {
                all.retain(|one: &Listed| one.name != "." && one.name != "..");
                all.sort();
                return all;
            };
            at = last.offset;
            all.extend(page);
        }
    }

    fn remove(&mut self, opcode: u32, dir: u64, name: &[u8]) -> Option<i32> {
        self.ask(opcode, dir, &[name, b"\0"].concat(), true)
    }

    fn forget(&mut self, node: u64, count: u64) {
        assert_eq!(self.ask(FORGET, node, &count.to_le_bytes(), false), None);
    }
}

/// An entry that the guest was told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    name: String,
    node: u64,
    offset: u64,
}

fn names(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|one| one.name.as_str()).collect()
}

/// Our descriptors of what is below `dir`, by path.
fn held(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.starts_with(dir) && target != dir)
        .collect()
}

#[test]
fn a_copy_of_a_guest_need_not_mount_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let record = tempfile::tempfile().unwrap();
    let with = |record: Option<&File>| {
        Guest::silent(Share {
            record: record.map(|file| file.try_clone().unwrap()),
            ..share(dir.path())
        })
    };
    let mut first = with(Some(&record)).unwrap();
    let body = [7_u32, 36, 1 << 20, (1 << 30) - 1].map(u32::to_le_bytes).concat();
    assert_eq!(first.ask(INIT, 0, &body, true), Some(0));
    let mut copy = with(Some(&record)).unwrap();
    copy.find(ROOT, b"file\0");
    assert!(
        with(None)
            .unwrap()
            .ask(LOOKUP, ROOT, b"file\0", true)
            .is_some_and(|e| e > 0),
        "nothing without"
    );
    // A server that would have agreed upon something else.
    let mut kept = Record::read(&record).unwrap().unwrap();
    kept.answer[16] ^= 1;
    kept.write(&record).unwrap();
    assert!(with(Some(&record)).is_err());
}

#[test]
fn names_cannot_leave_the_share() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(dir.path().join("secret"), "").unwrap();
    symlink("../secret", share.join("link")).unwrap();
    let mut guest = Guest::new(&share, false);
    for name in [
        &b"../secret\0"[..],
        b"x/../../secret\0",
        b"/etc/passwd\0",
        b"link/../../secret\0",
    ] {
        let answer = guest.ask(LOOKUP, ROOT, name, true);
        assert!(answer.is_some_and(|e| e > 0), "{}: {answer:?}", name.escape_ascii());
    }
    assert_eq!(
        guest.ask(LOOKUP, ROOT, b"link\0", true),
        Some(0),
        "the link itself is there, for the guest to follow"
    );
}

#[test]
fn entries_of_a_fixed_directory_stay() {
    const SYMLINK: u32 = 6;
    const RENAME: u32 = 12;
    const SETXATTR: u32 = 21;
    const CREATE: u32 = 35;
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("c/layer");
    for place in ["fs", "work"] {
        std::fs::create_dir_all(layer.join(place)).unwrap();
    }
    std::fs::write(layer.join("mark"), "").unwrap();
    // Of this name, but not in its place.
    std::fs::create_dir(layer.join("fs/layer")).unwrap();
    let mut guest = Guest::new(dir.path(), false);
    let container = guest.find(ROOT, b"c\0");
    assert_eq!(guest.ask(LOOKUP, container, b"..\0", true), Some(libc::ESTALE));
    let fixed = guest.find(container, b"layer\0");
    let (fs, work) = (guest.find(fixed, b"fs\0"), guest.find(fixed, b"work\0"));
    let mkdir = |name: &[u8]| [&0o755_u32.to_le_bytes()[..], &0_u32.to_le_bytes(), name].concat();
    let rename = |to: u64, names: &[u8]| [&to.to_le_bytes()[..], names].concat();
    let create = [
        &[libc::O_RDWR.cast_unsigned(), 0o644, 0, 0]
            .map(u32::to_le_bytes)
            .concat()[..],
        b"new\0",
    ]
    .concat();
    let xattr = [&[1_u32, 0].map(u32::to_le_bytes).concat()[..], b"user.a\0v"].concat();
    for (opcode, node, body) in [
        (MKDIR, fixed, mkdir(b"new\0")),
        (CREATE, fixed, create),
        (SYMLINK, fixed, b"new\0/etc\0".to_vec()),
        (UNLINK, fixed, b"mark\0".to_vec()),
        (RENAME, fixed, rename(work, b"fs\0fs\0")),
        (RENAME, fs, rename(fixed, b"layer\0new\0")),
        (SETXATTR, fixed, xattr),
    ] {
        assert_eq!(
            guest.ask(opcode, node, &body, true),
            Some(libc::EPERM),
            "request {opcode}"
        );
    }
    // Nor by a path from outside of it.
    assert_eq!(guest.ask(LOOKUP, ROOT, b"c/layer\0", true), Some(libc::EINVAL));
    for (opcode, node, body) in [
        (MKDIR, container, mkdir(b"layer/new\0")),
        (SYMLINK, container, b"layer/new\0/etc\0".to_vec()),
        (UNLINK, container, b"layer/mark\0".to_vec()),
        (RENAME, container, rename(work, b"layer/fs\0fs\0")),
        (RENAME, fs, rename(container, b"layer\0layer/new\0")),
    ] {
        assert_eq!(
            guest.ask(opcode, node, &body, true),
            Some(libc::EINVAL),
            "request {opcode}"
        );
    }
    // An overlay's work, below.
    assert_eq!(guest.ask(MKDIR, work, &mkdir(b"d\0"), true), Some(0));
    assert_eq!(guest.ask(RENAME, work, &rename(fs, b"d\0d\0"), true), Some(0));
    assert!(layer.join("fs/d").is_dir());
    // Known twice and forgotten once, it is still what it was; so is what it is in.
    assert_eq!(guest.find(fixed, b".\0"), fixed);
    assert_eq!(guest.ask(FORGET, fixed, &1_u64.to_le_bytes(), false), None);
    assert_eq!(guest.ask(MKDIR, fixed, &mkdir(b"new\0"), true), Some(libc::EPERM));
    assert_eq!(guest.find(container, b".\0"), container);
    assert_eq!(guest.ask(FORGET, container, &1_u64.to_le_bytes(), false), None);
    let other = guest.find(fs, b"layer\0");
    assert_eq!(guest.ask(MKDIR, other, &mkdir(b"d\0"), true), Some(0));
    // No way back to it by another number.
    assert_eq!(guest.ask(FORGET, fixed, &1_u64.to_le_bytes(), false), None);
    assert_eq!(guest.ask(LOOKUP, fs, b"..\0", true), Some(libc::ESTALE));
    let again = guest.find(container, b"layer\0");
    assert_ne!(again, fixed);
    assert_eq!(guest.ask(MKDIR, again, &mkdir(b"new\0"), true), Some(libc::EPERM));
    let mut left: Vec<_> = std::fs::read_dir(&layer)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["fs", "mark", "work"]);
}

#[test]
fn a_request_that_cannot_be_answered_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(dir.path(), false);
    assert_eq!(guest.ask(LOOKUP, ROOT, b"f\0", false), None);
    assert_ne!(guest.ask(LOOKUP, ROOT, b"no end", true), Some(0));
    assert_eq!(guest.ask(9999, ROOT, b"", true), Some(libc::ENOSYS));
    assert_eq!(guest.ask(LOOKUP, ROOT, b"f\0", true), Some(libc::ENOENT));
}

#[test]
fn what_the_agent_tells_changes_no_file() {
    const SETATTR: u32 = 4;
    const OPEN: u32 = 14;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "content").unwrap();
    let before = std::fs::metadata(&file).unwrap();
    // Also where nothing can be changed.
    for read_only in [false, true] {
        let mut guest = Guest::new(dir.path(), read_only);
        assert_eq!(guest.ask(LOOKUP, ROOT, b"f\0", true), Some(0));
        let mem = guest.act.mem.memory();
        let node: u64 = mem.read_obj(GuestAddress(ANSWER + 16)).unwrap();
        let mut body = [0; 88];
        body[..4].copy_from_slice(&(1_u32 << 5).to_le_bytes());
        body[40..48].copy_from_slice(&api::notice::SECONDS.to_le_bytes());
        assert_eq!(guest.ask(SETATTR, node, &body, true), Some(0));
        let size: u64 = mem.read_obj(GuestAddress(ANSWER + 16 + 16 + 8)).unwrap();
        assert_eq!(size, 7, "it is answered as a question for attributes");
        let write = [libc::O_WRONLY.cast_unsigned(), 0].map(u32::to_le_bytes).concat();
        assert_eq!(guest.ask(OPEN, node, &write, true), Some(0));
        let again = guest.ask(OPEN, node, &write, true);
        assert_eq!(again, Some(if read_only { libc::EROFS } else { 0 }));
    }
    let after = std::fs::metadata(&file).unwrap();
    let times = |found: &std::fs::Metadata| {
        (
            found.modified().unwrap(),
            std::os::unix::fs::MetadataExt::ctime_nsec(found),
        )
    };
    assert_eq!(times(&before), times(&after));
}

#[test]
fn a_read_only_share_takes_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let body = [&0o755_u32.to_le_bytes()[..], &0_u32.to_le_bytes(), b"d\0"].concat();
    assert_eq!(
        Guest::new(dir.path(), true).ask(MKDIR, ROOT, &body, true),
        Some(libc::EROFS)
    );
    assert!(!dir.path().join("d").exists());
    assert_eq!(Guest::new(dir.path(), false).ask(MKDIR, ROOT, &body, true), Some(0));
    assert!(dir.path().join("d").exists());
}

#[test]
fn a_directory_is_listed_once_however_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<String> = (0..2000).map(|n| format!("file-{n:04}")).collect();
    for name in &many {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let mut guest = Guest::new(dir.path(), false);
    let (one, other) = (guest.open(ROOT), guest.open(ROOT));
    let all = guest.list(READDIR, ROOT, one, 0);
    assert_eq!(names(&all), many);
    // Two that are read in turns, one of them from a place in the middle.
    let begin = guest.page(READDIR, ROOT, other, 0);
    let middle = begin[begin.len() / 2].offset;
    let rest = guest.list(READDIR, ROOT, one, middle).len();
    let end = guest.list(READDIR, ROOT, other, begin.last().unwrap().offset);
    let listed = |page: &[Listed]| page.iter().filter(|one| !one.name.starts_with('.')).count();
    assert_eq!(listed(&begin) + end.len(), many.len());
    assert_eq!(listed(&begin[..=begin.len() / 2]) + rest, many.len());
    // What goes after a part was read is told by name alone; each of the others has a number.
    let begin = guest.page(READDIRPLUS, ROOT, one, 0);
    let known: Vec<_> = begin.iter().filter(|one| one.node != 0).cloned().collect();
    assert_eq!(known.len(), listed(&begin));
    let told: Vec<_> = known.iter().map(|one| one.name.as_str()).collect();
    for name in many.iter().filter(|name| !told.contains(&name.as_str())) {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let end = guest.list(READDIRPLUS, ROOT, one, begin.last().unwrap().offset);
    assert!(end.iter().all(|one| one.node == 0), "{end:?}");
    assert_eq!(guest.remove(LOOKUP, ROOT, b"file-none"), Some(libc::ENOENT));
    // From the begin it is what it is by now.
    assert_eq!(names(&guest.list(READDIR, ROOT, one, 0)).len(), told.len());
    std::fs::write(dir.path().join("new"), "").unwrap();
    assert!(names(&guest.list(READDIRPLUS, ROOT, one, 0)).contains(&"new"));
    for handle in [one, other] {
        guest.close(ROOT, handle);
    }
    let body = [&one.to_le_bytes()[..], &[0; 8], &4080_u32.to_le_bytes(), &[0; 20]].concat();
    assert_eq!(guest.ask(READDIR, ROOT, &body, true), Some(libc::EBADF));
}

#[test]
fn more_directories_are_read_than_are_read_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|n| format!("{n}")).collect();
    for d in 0..12 {
        std::fs::create_dir(dir.path().join(format!("d{d}"))).unwrap();
        for name in &names {
            std::fs::write(dir.path().join(format!("d{d}/{name}")), "").unwrap();
        }
    }
    let mut guest = Guest::new(dir.path(), false);
    let mut open: Vec<(u64, u64, u64, usize)> = (0..12)
        .map(|d| {
            let node = guest.find(ROOT, format!("d{d}\0").as_bytes());
            (node, guest.open(node), 0, 0)
        })
        .collect();
    // A page of each in turns.
    for _ in 0..20 {
        for (node, handle, at, count) in &mut open {
            let page = guest.page(READDIR, *node, *handle, *at);
            *count += page.len();
            *at = page.last().map_or(*at, |last| last.offset);
        }
    }
    assert!(open.iter().all(|(.., count)| *count == names.len() + 2), "{open:?}");
}

#[test]
fn a_number_means_one_directory_whatever_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for handles in [false, true] {
        std::fs::create_dir_all(path("d/sub")).unwrap();
        for name in ["d/a", "d/b", "d/c"] {
            std::fs::write(path(name), "").unwrap();
        }
        let mut guest = Guest::of(Share {
            handles,
            ..share(dir.path())
        });
        let node = guest.find(ROOT, b"d\0");
        assert_eq!(guest.remove(UNLINK, node, b"a"), Some(0));
        assert_eq!(guest.remove(UNLINK, node, b"a"), Some(libc::ENOENT));
        assert_eq!(guest.remove(UNLINK, node, b"sub"), Some(libc::EISDIR));
        assert_eq!(guest.remove(RMDIR, node, b"b"), Some(libc::ENOTDIR));
        // Another one has its name.
        std::fs::rename(path("d"), path("e")).unwrap();
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/b"), "").unwrap();
        assert_eq!(guest.remove(UNLINK, node, b"b"), Some(0));
        assert_eq!((path("d/b").exists(), path("e/b").exists()), (true, false));
        let other = guest.find(ROOT, b"d\0");
        assert_ne!(other, node);
        assert_eq!(guest.remove(RMDIR, ROOT, b"d"), Some(libc::ENOTEMPTY));
        assert_eq!(guest.remove(UNLINK, other, b"b"), Some(0));
        assert_eq!(guest.remove(RMDIR, ROOT, b"d"), Some(0));
        // One that is not there any more, nor another in its place.
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/b"), "").unwrap();
        assert_eq!(guest.remove(UNLINK, other, b"b"), Some(libc::ESTALE));
        assert!(path("d/b").exists());
        // A file is no directory, and what was forgotten is nothing.
        let file = guest.find(node, b"c\0");
        assert_eq!(guest.remove(UNLINK, file, b"x"), Some(libc::ENOTDIR));
        guest.forget(node, 1);
        assert_eq!(guest.remove(UNLINK, node, b"c"), Some(libc::EBADF));
        for (node, count) in [(other, 1), (file, 1)] {
            guest.forget(node, count);
        }
        assert_eq!(held(dir.path()), Vec::<PathBuf>::new());
        for name in ["d", "e"] {
            std::fs::remove_dir_all(path(name)).unwrap();
        }
    }
}

#[test]
fn many_files_and_directories_hold_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    for d in 0..200 {
        std::fs::create_dir(dir.path().join(format!("d{d}"))).unwrap();
        std::fs::write(dir.path().join(format!("d{d}/f")), "").unwrap();
    }
    let mut guest = Guest::of(Share {
        handles: true,
        ..share(dir.path())
    });
    let nodes: Vec<u64> = (0..200)
        .map(|d| {
            let node = guest.find(ROOT, format!("d{d}\0").as_bytes());
            let file = guest.find(node, b"f\0");
            assert_eq!(guest.remove(UNLINK, node, b"f"), Some(0));
            // What was removed is free once that is answered, though the guest has not forgotten it.
            assert!(
                !held(dir.path())
                    .iter()
                    .any(|path| path.to_string_lossy().contains("/f"))
            );
            guest.forget(file, 1);
            node
        })
        .collect();
    // More than files may be open.
    assert!(held(dir.path()).len() <= 100, "{:?}", held(dir.path()));
    for (d, node) in nodes.iter().enumerate() {
        assert_eq!(guest.remove(RMDIR, ROOT, format!("d{d}").as_bytes()), Some(0));
        guest.forget(*node, 1);
    }
    assert_eq!(held(dir.path()), Vec::<PathBuf>::new());
}
