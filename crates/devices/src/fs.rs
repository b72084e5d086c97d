// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! virtio-fs (Virtio 1.2, section 5.11): a directory of the host as a file system of the guest.
//!
//! The file system is virtiofsd's passthrough; here is the queue loop around it. Its own vhost-user backend ends the process when a
//! request cannot be answered; here that request gets an empty answer.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use virtio::queue::Served;
use virtio::{Activation, Chain, Device, Result};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::server::Server;

/// High-priority requests (forget, interrupt), then one queue for the others.
const QUEUES: [u16; 2] = [1024, 1024];
/// Bytes of the tag in the configuration space, then the number of request queues.
const TAG: usize = 36;
/// How long the guest may believe what it has seen. The host may change files at any time: short.
const TIMEOUT: Duration = Duration::from_secs(1);

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
    /// The guest can change nothing.
    pub read_only: bool,
}

enum Engine {
    Writable(Server<PassthroughFs>),
    ReadOnly(Server<PassthroughFsRo>),
}

/// The device core.
pub struct Fs {
    engine: Engine,
    config: Vec<u8>,
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
            proc_sfd_rawfd: Some(share.descriptors),
            proc_mountinfo_rawfd: Some(share.mounts),
            guest_fd_limit: share.most_files,
            ..Config::default()
        };
        let engine = if share.read_only {
            Engine::ReadOnly(Server::new(PassthroughFsRo::new(settings)?))
        } else {
            Engine::Writable(Server::new(PassthroughFs::new(settings)?))
        };
        Ok(Fs { engine, config })
    }

    /// Answers one request; 0 where there is nothing to answer.
    fn answer(&self, chain: Chain) -> u32 {
        let mem = chain.memory().clone();
        let (Ok(reader), Ok(writer)) = (Reader::new(&mem, chain.clone()), Writer::new(&mem, chain)) else {
            return 0;
        };
        let answer = match &self.engine {
            Engine::Writable(server) => server.handle_message(reader, writer, None::<&mut ()>),
            Engine::ReadOnly(server) => server.handle_message(reader, writer, None::<&mut ()>),
        };
        match answer {
            Ok(len) => u32::try_from(len).unwrap_or(0),
            Err(e) => {
                log::debug!("a request of the guest has no answer: {e}");
                0
            }
        }
    }
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
        let Some((queue, mem)) = act.queue(index) else {
            return Ok(());
        };
        let fs = &*self;
        queue.drain(mem, |chain| Served::Used(fs.answer(chain)))
    }
}
