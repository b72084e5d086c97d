// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a virtio device is, with no word of PCI, MMIO, vhost-user or KVM.
//!
//! KVM (ioeventfd, irqfd) and vhost-user (kick, call) both speak eventfd, so a device core needs guest memory, rings and eventfds
//! only. A transport makes an [`Activation`]; a [`Worker`] runs the core on its own thread and gives both back when it stops.

pub mod device;
pub mod linger;
pub mod queue;
pub mod worker;

pub use device::{Activation, Device, Error, Result};
pub use linger::Linger;
pub use queue::{Call, Queue, Served};
pub use worker::Worker;

use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

/// Kind of dirty-page bitmap: virtiofsd's reader and writer of descriptor chains are fixed to it.
pub type Bitmap = vhost_user_backend::bitmap::BitmapMmapRegion;
/// Guest memory that may be replaced while devices run.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap<Bitmap>>;
/// One moment's view of [`Memory`].
pub type MemoryGuard = <Memory as GuestAddressSpace>::T;
/// A descriptor chain of the guest's.
pub type Chain = virtio_queue::DescriptorChain<MemoryGuard>;
