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
use std::sync::Arc;
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

use crate::fixed::{Fixed, Removed};
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
    removed: Arc<Removed>,
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
        let removed = Arc::<Removed>::default();
        let engine = if share.read_only {
            Engine::ReadOnly(Server::new(PassthroughFsRo::new(settings)?))
        } else {
            let held = share.handles.then(|| Arc::clone(&removed));
            Engine::Writable(Server::new(Fixed::new(PassthroughFs::new(settings)?, held)))
        };
        let mut fs = Fs {
            engine,
            config,
            notices: Notices::default(),
            linger: Linger::up_to(LINGER),
            record: None,
            removed,
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
        let drained = queue.drain(memory, &mut linger, |chain| {
            let len = self.answer(&chain);
            match self.removed.take() {
                None => Served::Used(len),
                Some(file) => Served::Ahead(len, Box::new(move || drop(file))),
            }
        });
        self.linger = linger;
        drained
    }
}

#[cfg(test)]
mod tests;
