// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! virtio-fs (Virtio 1.2, section 5.11): a directory of the host as a file system of the guest.
//!
//! The file system is virtiofsd's passthrough; here is the queue loop around it. Its own vhost-user backend ends the process when a
//! request cannot be answered; here that request gets an empty answer. Some requests of the agent mean something else: see
//! [`crate::notice`].

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use virtio::queue::Served;
use virtio::{Activation, Bitmap, Chain, Device, Linger, Memory, Result};
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_queue::{Queue as Ring, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryError, GuestMemoryMmap};

use crate::fixed::Fixed;
use crate::notice::{self, Notices};
use crate::privilege::{self, Forgone};
use crate::session::{self, Record};

/// High-priority requests (forget, interrupt), then one queue for the others.
const QUEUES: [u16; 2] = [1024, 1024];
/// Bytes of the tag in the configuration space, then the number of request queues.
const TAG: usize = 36;
/// How long the guest may believe what it has seen. The host may change files at any time: short.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// A guest's program that works on files asks for one thing after the other. Long enough for an emulated guest to ask again.
const LINGER: Duration = Duration::from_micros(200);

thread_local! {
    /// Attributes are read and written relative to a working directory that is changed for it: this thread has one of its own.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// What is shared, and by which descriptors.
#[derive(Debug)]
pub struct Share<'a> {
    /// The directory.
    pub root: &'a Path,
    /// Its name in the guest, at most 36 bytes.
    pub tag: &'a str,
    /// `/proc/self/fd`: the process may have left the file system in which it is.
    pub descriptors: File,
    /// `/proc/self/mountinfo`.
    pub mounts: File,
    /// Descriptors that the guest can make us hold.
    pub most_files: u64,
    /// Know files by handle, not by descriptor, where their file system can: any number of them, but it takes
    /// `CAP_DAC_READ_SEARCH`, with which a process can open any file of that file system.
    pub handles: bool,
    /// The guest can change nothing.
    pub read_only: bool,
    /// Empty: what is agreed upon with the guest's kernel is written there. Else what was agreed upon with a guest of which this one is a
    /// copy.
    pub record: Option<File>,
}

enum Engine {
    Writable(Server<Fixed>),
    ReadOnly(Server<PassthroughFsRo>),
}

/// The device core.
pub struct Fs {
    engine: Engine,
    config: Vec<u8>,
    notices: Notices,
    linger: Linger,
    record: Option<File>,
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs").finish_non_exhaustive()
    }
}

impl Fs {
    /// Errors: a tag of no or too many bytes, a directory that cannot be opened.
    pub fn new(share: Share<'_>) -> io::Result<Fs> {
        let mut config = share.tag.as_bytes().to_vec();
        if config.is_empty() || config.len() > TAG {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("tag of {} bytes", config.len()),
            ));
        }
        config.resize(TAG, 0);
        config.extend(1_u32.to_le_bytes());
        let root = share
            .root
            .to_str()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let settings = Config {
            root_dir: root.to_owned(),
            cache_policy: CachePolicy::Auto,
            entry_timeout: TIMEOUT,
            attr_timeout: TIMEOUT,
            xattr: true,
            announce_submounts: true,
            allow_direct_io: true,
            // See `privilege`.
            killpriv_v2: true,
            proc_sfd_rawfd: Some(share.descriptors),
            proc_mountinfo_rawfd: Some(share.mounts),
            guest_fd_limit: share.most_files,
            inode_file_handles: if share.handles {
                InodeFileHandlesMode::Prefer
            } else {
                InodeFileHandlesMode::Never
            },
            ..Config::default()
        };
        let engine = if share.read_only {
            Engine::ReadOnly(Server::new(PassthroughFsRo::new(settings)?))
        } else {
            Engine::Writable(Server::new(Fixed::new(PassthroughFs::new(settings)?)))
        };
        let mut fs = Fs {
            engine,
            config,
            notices: Notices::default(),
            linger: Linger::up_to(LINGER),
            record: None,
        };
        let record = share.record.as_ref().map(Record::read).transpose()?.flatten();
        match record {
            Some(record) => fs.agree(&record)?,
            None => fs.record = share.record,
        }
        Ok(fs)
    }

    /// Begins as with the guest of `record`. Errors: the answer would be another today.
    fn agree(&self, record: &Record) -> io::Result<()> {
        let unlike = || io::Error::other("the guest has agreed upon other things with its file server");
        let chain = own(&record.request, record.answer.len()).ok_or_else(unlike)?;
        let len = self.answer(&chain) as usize;
        let answer = written(&chain, len).map_err(io::Error::other)?;
        if answer == record.answer { Ok(()) } else { Err(unlike()) }
    }

    /// Answers one request; 0 where there is nothing to answer.
    fn answer(&self, chain: &Chain) -> u32 {
        let bytes = beginning(chain);
        let _forgone = match privilege::are_lost(&bytes).then(Forgone::begin).transpose() {
            Ok(forgone) => forgone,
            Err(e) => {
                log::error!("give CAP_FSETID up for a request: {e}");
                return 0;
            }
        };
        let other = self.notices.instead(&bytes);
        let instead = other.as_deref().and_then(|other| own(other, 0));
        // The request may be ours, the answer goes to the guest.
        let (mem, asked) = (chain.memory().clone(), instead.as_ref().unwrap_or(chain));
        let asked_mem = asked.memory().clone();
        let readable = Reader::new(&asked_mem, asked.clone());
        let (Ok(reader), Ok(writer)) = (readable, Writer::new(&mem, chain.clone())) else {
            return 0;
        };
        let answer = match &self.engine {
            Engine::Writable(server) => server.handle_message(reader, writer, None::<&mut ()>),
            Engine::ReadOnly(server) => server.handle_message(reader, writer, None::<&mut ()>),
        };
        match answer {
            Ok(len) => {
                let asked = instead.as_ref().and(other.as_deref()).unwrap_or(&bytes);
                if let Err(e) = forget_early(asked, chain, len) {
                    log::error!("shorten how long a mode is believed: {e}");
                    return 0;
                }
                if let Err(e) = self.keep(&bytes, chain, len) {
                    log::error!("write down what was agreed upon with the guest: {e}");
                    return 0;
                }
                u32::try_from(len).unwrap_or(0)
            }
            Err(e) => {
                log::debug!("a request of the guest has no answer: {e}");
                0
            }
        }
    }
}

impl Fs {
    /// Writes down what is agreed upon by a request that has been answered, if it is the first.
    fn keep(&self, beginning: &[u8], chain: &Chain, len: usize) -> io::Result<()> {
        let Some(file) = self.record.as_ref().filter(|_| session::begins(beginning)) else {
            return Ok(());
        };
        let record = Record {
            request: beginning.to_vec(),
            answer: written(chain, len).map_err(io::Error::other)?,
        };
        record.write(file)
    }
}

/// The first bytes of a request.
fn beginning(chain: &Chain) -> Vec<u8> {
    let mut bytes = vec![0; notice::LOOKED_AT.max(privilege::LOOKED_AT).max(session::MOST)];
    let mem = chain.memory().clone();
    let reader = Reader::new(&mem, chain.clone());
    let read = reader.map(|mut reader| {
        let len = reader.available_bytes().min(bytes.len());
        bytes.truncate(len);
        reader.read_exact(&mut bytes)
    });
    if !matches!(read, Ok(Ok(()))) {
        bytes.clear();
    }
    bytes
}

/// The attributes of files with privileges are good for no time, see [`privilege`]. The answer has been written; the guest does not know yet.
fn forget_early(request: &[u8], chain: &Chain, len: usize) -> std::result::Result<(), GuestMemoryError> {
    let Some(most) = privilege::told_in(request) else {
        return Ok(());
    };
    let mem = chain.memory();
    let answer = written(chain, len.min(most))?;
    for time in privilege::times(request, &answer) {
        let mut begin = 0;
        for piece in chain.clone().writable() {
            let end = begin + piece.len() as usize;
            let (from, to) = (time.start.max(begin), time.end.min(end));
            if from < to {
                let address = GuestAddress(piece.addr().0 + (from - begin) as u64);
                mem.write_slice(&[0; 8][..to - from], address)?;
            }
            begin = end;
        }
    }
    Ok(())
}

/// The first `len` bytes of an answer that has been written.
fn written(chain: &Chain, len: usize) -> std::result::Result<Vec<u8>, GuestMemoryError> {
    let mut answer = vec![0; len];
    let mut at = 0;
    for piece in chain.clone().writable() {
        let rest = answer.get_mut(at..).unwrap_or_default();
        let here = rest.len().min(piece.len() as usize);
        chain.memory().read_slice(&mut rest[..here], piece.addr())?;
        at += here;
    }
    Ok(answer)
}

/// A chain of our own with this request in it, and `room` bytes for the answer, if it has one.
fn own(request: &[u8], room: usize) -> Option<Chain> {
    const TABLE: u64 = 0;
    const AVAILABLE: u64 = 0x100;
    const USED: u64 = 0x200;
    const REQUEST: u64 = 0x300;
    const ANSWER: u64 = 0x800;
    let memory = GuestMemoryMmap::<Bitmap>::from_ranges(&[(GuestAddress(TABLE), 0x1000)]).ok()?;
    let len = u32::try_from(request.len()).ok()?;
    let room = u32::try_from(room).ok()?;
    let describe = |address: u64, len: u32, flags: u32, next: u32| {
        let last = (next << 16 | flags).to_le_bytes();
        [&address.to_le_bytes()[..], &len.to_le_bytes(), &last].concat()
    };
    let asked = if room == 0 { 0 } else { VRING_DESC_F_NEXT };
    let descriptors = [
        describe(REQUEST, len, asked, 1),
        describe(ANSWER, room, VRING_DESC_F_WRITE, 0),
    ];
    memory.write_slice(&descriptors.concat(), GuestAddress(TABLE)).ok()?;
    memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(AVAILABLE)).ok()?;
    memory.write_slice(request, GuestAddress(REQUEST)).ok()?;
    let mut ring = Ring::new(2).ok()?;
    ring.try_set_desc_table_address(GuestAddress(TABLE)).ok()?;
    ring.try_set_avail_ring_address(GuestAddress(AVAILABLE)).ok()?;
    ring.try_set_used_ring_address(GuestAddress(USED)).ok()?;
    ring.set_ready(true);
    ring.pop_descriptor_chain(Memory::new(memory).memory())
}

impl Device for Fs {
    fn kind(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn queue(&mut self, index: usize, act: &mut Activation) -> Result<()> {
        if !APART.get() {
            unshare(CloneFlags::CLONE_FS).map_err(io::Error::from)?;
            APART.set(true);
        }
        let Some((queue, memory)) = act.queue(index) else {
            return Ok(());
        };
        let mut linger = mem::take(&mut self.linger);
        let drained = queue.drain(memory, &mut linger, |chain| Served::Used(self.answer(&chain)));
        self.linger = linger;
        drained
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use virtio::{Call, Queue};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    const REQUESTS: usize = 1;
    const REQUEST: u64 = 0x4000;
    const ANSWER: u64 = 0x8000;
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const MKDIR: u32 = 9;
    const INIT: u32 = 26;
    const ROOT: u64 = 1;

    /// A guest that sends one request at a time.
    struct Guest {
        device: Fs,
        act: Activation,
        count: u16,
    }

    impl Guest {
        fn new(root: &Path, read_only: bool) -> Guest {
            let mut guest = Guest::silent(root, read_only, None).unwrap();
            let body = [7_u32, 36, 1 << 20, (1 << 30) - 1].map(u32::to_le_bytes).concat();
            assert_eq!(guest.ask(INIT, 0, &body, true), Some(0));
            guest
        }

        /// One that has not mounted the share, or is a copy of one that has.
        fn silent(root: &Path, read_only: bool, record: Option<File>) -> io::Result<Guest> {
            let device = Fs::new(Share {
                root,
                tag: "kata",
                descriptors: File::open("/proc/self/fd").unwrap(),
                mounts: File::open("/proc/self/mountinfo").unwrap(),
                most_files: 100,
                handles: false,
                read_only,
                record,
            });
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
            self.act.mem.memory().read_obj(GuestAddress(ANSWER + 16)).unwrap()
        }
    }

    #[test]
    fn a_copy_of_a_guest_need_not_mount_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let record = tempfile::tempfile().unwrap();
        let share = |record: &File| Guest::silent(dir.path(), false, Some(record.try_clone().unwrap()));
        let mut first = share(&record).unwrap();
        let body = [7_u32, 36, 1 << 20, (1 << 30) - 1].map(u32::to_le_bytes).concat();
        assert_eq!(first.ask(INIT, 0, &body, true), Some(0));
        let mut copy = share(&record).unwrap();
        copy.find(ROOT, b"file\0");
        assert!(
            Guest::silent(dir.path(), false, None)
                .unwrap()
                .ask(LOOKUP, ROOT, b"file\0", true)
                .is_some_and(|e| e > 0),
            "nothing without"
        );
        // A server that would have agreed upon something else.
        let mut kept = Record::read(&record).unwrap().unwrap();
        kept.answer[16] ^= 1;
        kept.write(&record).unwrap();
        assert!(share(&record).is_err());
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
        const UNLINK: u32 = 10;
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
}
