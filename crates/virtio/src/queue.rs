// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One virtqueue: the ring, the eventfd with which the driver kicks, and the interrupt (Virtio 1.2, section 2.6).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use crate::{Chain, Memory, Result};

/// Guest interrupt of one queue. The transport may swap the eventfd at any time.
#[derive(Debug, Clone, Default)]
pub struct Call {
    // Taken alone.
    fd: Arc<Mutex<Option<EventFd>>>,
}

impl Call {
    /// Swaps the eventfd.
    pub fn set(&self, fd: Option<EventFd>) {
        *self.fd.lock().unwrap_or_else(PoisonError::into_inner) = fd;
    }

    /// Interrupts; without an eventfd the driver polls.
    pub fn signal(&self) -> io::Result<()> {
        let fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
        fd.as_ref().map_or(Ok(()), |fd| fd.write(1))
    }
}

/// What a device does with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Used; so many bytes were written.
    Used(u32),
    /// Put back; no more chains are wanted now.
    Back,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    /// Addresses and indices.
    pub ring: Ring,
    /// The driver's kick.
    pub kick: EventFd,
    /// The device's interrupt.
    pub call: Call,
}

impl Queue {
    /// Offers available chains to `serve`, then interrupts the guest once if the driver asked for it. A driver that adds chains as
    /// fast as they are served gets one ring of them at a time: the rest is as if kicked again, so that others have their turn.
    /// Errors: the ring itself is broken (outside of memory, an index that runs away).
    pub fn drain(&mut self, mem: &Memory, mut serve: impl FnMut(Chain) -> Served) -> Result<()> {
        let mut used = false;
        let mut wanted = true;
        let mut turn = self.ring.size();
        let mut fruitless = 0;
        while wanted {
            self.ring.disable_notification(&*mem.memory())?;
            let before = turn;
            while turn > 0
                && let Some(chain) = self.ring.pop_descriptor_chain(mem.memory())
            {
                turn -= 1;
                let head = chain.head_index();
                match serve(chain) {
                    Served::Used(len) => {
                        self.ring.add_used(&*mem.memory(), head, len)?;
                        used = true;
                    }
                    Served::Back => {
                        self.ring.go_to_previous_position();
                        wanted = false;
                        break;
                    }
                }
            }
            // The driver may have added a chain before it saw that notifications are on again.
            if !self.ring.enable_notification(&*mem.memory())? {
                break;
            }
            if turn == 0 {
                self.kick.write(1)?;
                break;
            }
            // Chains are said to be there, and none can be taken: the index has run away.
            fruitless = if turn == before { fruitless + 1 } else { 0 };
            if fruitless > 1 {
                return Err(virtio_queue::Error::InvalidAvailRingIndex.into());
            }
        }
        if used && self.ring.needs_notification(&*mem.memory())? {
            self.call.signal()?;
        }
        Ok(())
    }
}
