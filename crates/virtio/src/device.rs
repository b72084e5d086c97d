// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The contract between a device core and a transport.

use std::io;
use std::os::fd::RawFd;

use crate::{Memory, Queue};

/// Why a core cannot go on: the transport stops it; the process lives.
#[derive(Debug)]
pub enum Error {
    /// The guest broke a ring.
    Queue(virtio_queue::Error),
    /// The host said no.
    Io(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Queue(e) => write!(f, "virtqueue: {e}"),
            Error::Io(e) => write!(f, "event loop: {e}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<virtio_queue::Error> for Error {
    fn from(e: virtio_queue::Error) -> Error {
        Error::Queue(e)
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Io(e)
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a transport gives to a core while it runs.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub mem: Memory,
    /// Feature bits that the driver took.
    pub features: u64,
    /// By index; those that are not started (yet) are `None`.
    pub queues: Vec<Option<Queue>>,
}

impl Activation {
    /// The queue and the memory, when it runs.
    pub fn queue(&mut self, index: usize) -> Option<(&mut Queue, &Memory)> {
        let queue = self.queues.get_mut(index)?.as_mut()?;
        Some((queue, &self.mem))
    }
}

/// A device core. `queue` and `event` run on the worker's thread, the rest on the transport's.
pub trait Device: Send {
    /// Device id (Virtio 1.2, section 5).
    fn kind(&self) -> u32;
    /// Largest size of each queue; powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// Feature bits that it offers beside VIRTIO_F_VERSION_1 and those of the ring.
    fn features(&self) -> u64;
    /// The configuration space.
    fn config(&self) -> &[u8];
    /// The driver kicked queue `index`.
    fn queue(&mut self, index: usize, act: &mut Activation) -> Result<()>;
    /// Descriptors of its own to watch for input; the token comes back to [`Device::event`].
    fn fds(&self) -> Vec<(RawFd, u32)> {
        Vec::new()
    }
    /// A descriptor of its own is readable.
    fn event(&mut self, token: u32, act: &mut Activation) -> Result<()> {
        let _ = (token, act);
        Ok(())
    }
    /// The driver has reset the device: connections and requests of its past are void.
    fn reset(&mut self) {}
}

impl std::fmt::Debug for dyn Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("queue_sizes", &self.queue_sizes())
            .finish_non_exhaustive()
    }
}
