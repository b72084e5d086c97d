// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A driver for device cores: guest memory and rings in it, as a guest would lay them out or as it pleases.

use virtio::{Activation, Bitmap, Call, Memory, Queue};
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of guest memory: rings below, buffers above.
pub const MEMORY: usize = 1 << 20;
/// Entries of each ring.
const SIZE: u16 = 16;
/// Each ring has a page for each of its three parts.
const PAGE: u64 = 4096;

/// Guest memory with `queues` rings; ring n is in pages 3n to 3n+2: descriptors, available, used.
pub fn guest(queues: usize) -> Activation {
    let memory = GuestMemoryMmap::<Bitmap>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("map memory");
    let queue = |n: usize| {
        let base = n as u64 * 3 * PAGE;
        let mut ring = Ring::new(SIZE).expect("a power of two");
        ring.try_set_desc_table_address(GuestAddress(base)).expect("aligned");
        ring.try_set_avail_ring_address(GuestAddress(base + PAGE))
            .expect("aligned");
        ring.try_set_used_ring_address(GuestAddress(base + 2 * PAGE))
            .expect("aligned");
        ring.set_ready(true);
        let kick = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Some(Queue {
            ring,
            kick,
            call: Call::default(),
        })
    };
    Activation {
        mem: Memory::new(memory),
        features: 1 << 32,
        queues: (0..queues).map(queue).collect(),
    }
}

/// Writes one descriptor of ring `queue`.
pub fn describe(act: &Activation, queue: usize, index: u16, address: u64, len: u32, flags: u16, next: u16) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    put(act, queue as u64 * 3 * PAGE + u64::from(index % SIZE) * 16, &bytes);
}

/// Offers the chain that starts at `head`, as the `count`-th of ring `queue`.
pub fn offer(act: &Activation, queue: usize, head: u16, count: u16) {
    let ring = queue as u64 * 3 * PAGE + PAGE;
    put(act, ring + 4 + 2 * u64::from(count % SIZE), &head.to_le_bytes());
    put(act, ring + 2, &count.wrapping_add(1).to_le_bytes());
}

/// Writes guest memory; what lies outside is not written.
pub fn put(act: &Activation, address: u64, bytes: &[u8]) {
    let _ = act.mem.memory().write_slice(bytes, GuestAddress(address));
}

/// Takes bytes from the front.
pub fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (front, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    front
}

/// Takes one byte; 0 at the end.
pub fn byte(data: &mut &[u8]) -> u8 {
    take(data, 1).first().copied().unwrap_or(0)
}
