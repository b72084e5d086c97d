// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One virtqueue: the ring, the eventfd with which the driver kicks, and the interrupt (Virtio 1.2, section 2.6).

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use crate::{Chain, Linger, Memory, Result};

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
pub enum Served {
    /// Used; so many bytes were written.
    Used(u32),
    /// Used as well, and the driver is told at once: it need not wait for the rest that is to be done.
    Ahead(u32, Box<dyn FnOnce()>),
    /// Put back; no more chains are wanted now.
    Back,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Served::Used(len) => f.debug_tuple("Used").field(len).finish(),
            Served::Ahead(len, _) => f.debug_tuple("Ahead").field(len).finish_non_exhaustive(),
            Served::Back => f.write_str("Back"),
        }
    }
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
    /// When all are served it looks for more as `linger` says, without kicks.
    /// Errors: the ring itself is broken (outside of memory, an index that runs away).
    pub fn drain(&mut self, mem: &Memory, linger: &mut Linger, mut serve: impl FnMut(Chain) -> Served) -> Result<()> {
        linger.wake();
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
                    Served::Ahead(len, rest) => {
                        self.ring.add_used(&*mem.memory(), head, len)?;
                        used = true;
                        self.interrupt(mem, &mut used)?;
                        rest();
                    }
                    Served::Back => {
                        self.ring.go_to_previous_position();
                        wanted = false;
                        break;
                    }
                }
            }
            let came = wanted && turn > 0 && linger.stays() && {
                self.interrupt(mem, &mut used)?;
                linger.until(|| self.is_offered(mem))
            };
            // The driver may have added a chain before it saw that notifications are on again.
            if !came && !self.ring.enable_notification(&*mem.memory())? {
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
        linger.sleep();
        self.interrupt(mem, &mut used)
    }

    /// Tells the driver of chains that are used, if it asked for it.
    fn interrupt(&mut self, mem: &Memory, used: &mut bool) -> Result<()> {
        if std::mem::take(used) && self.ring.needs_notification(&*mem.memory())? {
            self.call.signal()?;
        }
        Ok(())
    }

    /// Also where that cannot be told: whoever takes the next chain hears why.
    fn is_offered(&self, mem: &Memory) -> bool {
        let index = self.ring.avail_idx(&*mem.memory(), Ordering::Acquire);
        index.map_or(true, |index| index.0 != self.ring.next_avail())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::thread;
    use std::time::Duration;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;
    use crate::Bitmap;

    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;
    /// A chain with which the device ends its turn.
    const LAST: u16 = 5;

    fn offer(mem: &Memory, head: u16, index: u16) {
        let mem = mem.memory();
        let slot = AVAILABLE + 4 + 2 * u64::from(index - 1);
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        mem.store(index, GuestAddress(AVAILABLE + 2), Ordering::Release)
            .unwrap();
    }

    fn queue() -> (Queue, Memory, EventFd) {
        let memory = GuestMemoryMmap::<Bitmap>::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let mut ring = Ring::new(8).unwrap();
        ring.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        ring.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        ring.set_ready(true);
        let interrupt = EventFd::new(0).unwrap();
        let call = Call::default();
        call.set(Some(interrupt.try_clone().unwrap()));
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        (Queue { ring, kick, call }, Memory::new(memory), interrupt)
    }

    #[test]
    fn what_need_not_be_waited_for_is_done_when_the_answer_is_told() {
        let (mut queue, mem, interrupt) = queue();
        let (told, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        offer(&mem, 2, 1);
        offer(&mem, 4, 2);
        let drained = queue.drain(&mem, &mut Linger::default(), |_| {
            let (told, done) = (Rc::clone(&told), Rc::clone(&done));
            let interrupt = interrupt.try_clone().unwrap();
            let rest = move || {
                told.set(told.get() + interrupt.read().unwrap());
                done.set(done.get() + 1);
            };
            Served::Ahead(3, Box::new(rest))
        });
        drained.unwrap();
        assert_eq!((told.get(), done.get()), (2, 2));
        let used: u16 = mem.memory().load(GuestAddress(USED + 2), Ordering::Acquire).unwrap();
        assert_eq!(used, 2);
    }

    #[test]
    fn a_chain_that_comes_soon_needs_no_kick_and_the_answer_before_it_is_told() {
        let (mut queue, mem, interrupt) = queue();
        let mut linger = Linger::always(Duration::from_secs(30));
        let mut turn = || {
            let mut seen = Vec::new();
            let drained = queue.drain(&mem, &mut linger, |chain| {
                seen.push(chain.head_index());
                if chain.head_index() == LAST {
                    Served::Back
                } else {
                    Served::Used(3)
                }
            });
            drained.unwrap();
            seen
        };
        offer(&mem, 2, 1);
        assert_eq!(turn(), [2], "a driver that nothing is known of is not waited for");
        assert_eq!(interrupt.read().unwrap(), 1);
        offer(&mem, 4, 2);
        thread::scope(|scope| {
            scope.spawn(|| {
                interrupt.read().unwrap();
                offer(&mem, LAST, 3);
            });
            assert_eq!(turn(), [4, LAST]);
        });
    }
}
