// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! virtio-vsock (Virtio 1.2, section 5.10) between a guest and Unix sockets of the host ("hybrid vsock"): no kernel module.
//!
//! A host program connects to one Unix socket and asks for a guest port with the line `CONNECT <port>\n`; a guest program that dials
//! host port N reaches the Unix socket of that number. Stream sockets only.

mod connection;
mod muxer;
mod packet;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use virtio::queue::Served;
use virtio::{Activation, Device, Linger, Result};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

pub use self::muxer::Muxer;
pub use self::packet::{Header, LENGTH};

/// Queue from the host to the guest, from the guest to the host. The event queue (2) has nothing to say: identities do not change.
const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZE: u16 = 1024;

/// Reaches the listener of the host that the guest dials by port.
pub type Dial = Box<dyn Fn(u32) -> io::Result<UnixStream> + Send>;

/// The device core.
pub struct Vsock {
    muxer: Muxer,
    config: [u8; 8],
}

impl std::fmt::Debug for Vsock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vsock")
            .field("muxer", &self.muxer)
            .finish_non_exhaustive()
    }
}

impl Vsock {
    /// A device whose guest has context id `cid`; host programs come through `listener`, guest programs go out by `dial`.
    pub fn new(cid: u32, listener: UnixListener, dial: Dial) -> io::Result<Vsock> {
        Ok(Vsock {
            muxer: Muxer::new(cid, listener, dial)?,
            config: u64::from(cid).to_le_bytes(),
        })
    }

    /// Fills the guest's buffers with what waits for it.
    fn receive(&mut self, act: &mut Activation) -> Result<()> {
        if !self.muxer.has_packets() {
            return Ok(());
        }
        let Some((queue, mem)) = act.queue(RX) else {
            return Ok(());
        };
        let muxer = &mut self.muxer;
        queue.drain(mem, &mut Linger::default(), |chain| {
            if muxer.has_packets() {
                packet::fill(chain, muxer)
            } else {
                Served::Back
            }
        })
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn queue(&mut self, index: usize, act: &mut Activation) -> Result<()> {
        if index == TX
            && let Some((queue, mem)) = act.queue(TX)
        {
            let muxer = &mut self.muxer;
            queue.drain(mem, &mut Linger::default(), |chain| {
                packet::take(chain, muxer);
                Served::Used(0)
            })?;
        }
        self.receive(act)
    }

    fn fds(&self) -> Vec<(RawFd, u32)> {
        vec![(self.muxer.as_raw_fd(), 0)]
    }

    fn event(&mut self, _token: u32, act: &mut Activation) -> Result<()> {
        self.muxer.host_events();
        self.receive(act)
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }
}
