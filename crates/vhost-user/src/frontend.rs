// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What one frontend has told us so far: memory, rings, features; and the core, idle or at work.
//!
//! A ring runs when it has an address, a kick and is enabled. Rings come and go one by one (some frontends never start all of them),
//! so the worker is restarted with those that run.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use base::{Context, Kind};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error as WireError, GpuBackend, Result as WireResult, VhostUserBackendReqHandlerMut};
use virtio::{Activation, Bitmap, Call, Device, Memory, Queue, Worker};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::sys;

/// VHOST_USER_F_PROTOCOL_FEATURES, in the virtio feature bits that devices do not use.
const PROTOCOL_FEATURES: u64 = 1 << 30;

#[derive(Debug)]
struct Vring {
    ring: Ring,
    kick: Option<EventFd>,
    call: Call,
    enabled: bool,
}

#[derive(Debug)]
enum Core {
    Idle(Box<dyn Device>),
    Running(Worker),
    /// Its worker panicked: nothing runs any more.
    Lost,
}

/// See the module.
pub struct Frontend {
    name: String,
    kind: u32,
    core: Core,
    config: Vec<u8>,
    offered: u64,
    taken: u64,
    mem: Memory,
    regions: Vec<VhostUserMemoryRegion>,
    vrings: Vec<Vring>,
}

fn bad(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WireError {
    WireError::ReqHandlerError(io::Error::other(e))
}

fn absent<T>(what: &'static str) -> WireResult<T> {
    Err(WireError::InvalidOperation(what))
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend")
            .field("name", &self.name)
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl Frontend {
    pub fn new(name: &str, device: Box<dyn Device>) -> base::Result<Frontend> {
        let vring = |&size: &u16| {
            let ring = Ring::new(size).context(Kind::Bug, || format!("make a ring of {size} for {name}"))?;
            Ok(Vring {
                ring,
                kick: None,
                call: Call::default(),
                enabled: false,
            })
        };
        let ring_features = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        Ok(Frontend {
            name: name.to_owned(),
            kind: device.kind(),
            config: device.config().to_vec(),
            offered: device.features() | ring_features | PROTOCOL_FEATURES,
            taken: 0,
            mem: Memory::new(GuestMemoryMmap::new()),
            regions: Vec::new(),
            vrings: device.queue_sizes().iter().map(vring).collect::<base::Result<_>>()?,
            core: Core::Idle(device),
        })
    }

    /// The guest's address of what the frontend maps at `address`.
    fn guest_address(&self, address: u64) -> WireResult<GuestAddress> {
        let inside = |region: &&VhostUserMemoryRegion| {
            address
                .checked_sub(region.user_addr)
                .is_some_and(|offset| offset < region.memory_size)
        };
        let region = self.regions.iter().find(inside).ok_or(WireError::InvalidParam)?;
        let address = (address - region.user_addr).checked_add(region.guest_phys_addr);
        address.map(GuestAddress).ok_or(WireError::InvalidParam)
    }

    fn vring(&mut self, index: impl TryInto<usize>) -> WireResult<&mut Vring> {
        let index = index.try_into().map_err(|_| WireError::InvalidParam)?;
        self.vrings.get_mut(index).ok_or(WireError::InvalidParam)
    }

    /// Takes the core from its worker; the rings remember how far it came.
    fn halt(&mut self) {
        self.core = match std::mem::replace(&mut self.core, Core::Lost) {
            Core::Running(worker) => match worker.stop() {
                Some((device, act)) => {
                    for (vring, queue) in self.vrings.iter_mut().zip(act.queues) {
                        if let Some(queue) = queue {
                            vring.ring = queue.ring;
                        }
                    }
                    Core::Idle(device)
                }
                None => Core::Lost,
            },
            other => other,
        };
    }

    /// Restarts the core with the rings that run now.
    fn settle(&mut self) -> WireResult<()> {
        self.halt();
        let mut queues = Vec::new();
        for vring in &self.vrings {
            let runs = vring.enabled && vring.ring.ready();
            let queue = match &vring.kick {
                Some(kick) if runs => {
                    let ring = Ring::try_from(vring.ring.state()).map_err(bad)?;
                    Some(Queue {
                        ring,
                        kick: kick.try_clone().map_err(bad)?,
                        call: vring.call.clone(),
                    })
                }
                _ => None,
            };
            queues.push(queue);
        }
        if queues.iter().all(Option::is_none) {
            return Ok(());
        }
        let act = Activation {
            mem: self.mem.clone(),
            features: self.taken,
            queues,
        };
        if let Core::Idle(device) = std::mem::replace(&mut self.core, Core::Lost) {
            self.core = Core::Running(Worker::spawn(&self.name, device, act).map_err(bad)?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.halt();
        for vring in &mut self.vrings {
            vring.enabled = false;
            vring.kick = None;
            vring.call.set(None);
            vring.ring.set_ready(false);
        }
        if let Core::Idle(device) = &mut self.core {
            device.reset();
        }
    }
}

impl VhostUserBackendReqHandlerMut for Frontend {
    fn set_owner(&mut self) -> WireResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> WireResult<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> WireResult<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> WireResult<u64> {
        Ok(self.offered)
    }

    fn set_features(&mut self, features: u64) -> WireResult<()> {
        if features & !self.offered != 0 {
            return Err(WireError::InvalidParam);
        }
        self.taken = features;
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        // Without protocol features, rings start enabled.
        let enabled = features & PROTOCOL_FEATURES == 0;
        for vring in &mut self.vrings {
            vring.ring.set_event_idx(event_idx);
            vring.enabled |= enabled;
        }
        Ok(())
    }

    fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> WireResult<()> {
        let map = |(region, file): (&VhostUserMemoryRegion, File)| {
            let size = usize::try_from(region.memory_size).map_err(|_| WireError::InvalidParam)?;
            let map = MmapRegion::<Bitmap>::from_file(FileOffset::new(file, region.mmap_offset), size).map_err(bad)?;
            GuestRegionMmap::new(map, GuestAddress(region.guest_phys_addr)).ok_or(WireError::InvalidParam)
        };
        let mapped = regions.iter().zip(files).map(map).collect::<WireResult<Vec<_>>>()?;
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(bad)?;
        self.mem
            .lock()
            .map_err(|_| bad("the memory table's lock is poisoned"))?
            .replace(memory);
        self.regions = regions.to_vec();
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> WireResult<()> {
        let size = u16::try_from(num).map_err(|_| WireError::InvalidParam)?;
        self.vring(index)?
            .ring
            .try_set_size(size)
            .map_err(|_| WireError::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> WireResult<()> {
        let descriptor = self.guest_address(descriptor)?;
        let (used, available) = (self.guest_address(used)?, self.guest_address(available)?);
        let mem = self.mem.memory();
        let ring = &mut self.vring(index)?.ring;
        ring.try_set_desc_table_address(descriptor).map_err(bad)?;
        ring.try_set_avail_ring_address(available).map_err(bad)?;
        ring.try_set_used_ring_address(used).map_err(bad)?;
        let used = ring.used_idx(&*mem, Ordering::Acquire).map_err(bad)?.0;
        ring.set_next_used(used);
        // A frontend that was told by others which rings its guest has knows no index of them: whoever served them before has
        // finished what it took.
        if ring.next_avail() == 0 {
            ring.set_next_avail(used);
        }
        ring.set_ready(true);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> WireResult<()> {
        let base = u16::try_from(base).map_err(|_| WireError::InvalidParam)?;
        // A ring that has run starts from nothing again: it is another driver's, after a reset or a reboot of the guest.
        let anew = base == 0 && self.vring(index)?.ring.next_avail() != 0;
        if anew {
            self.halt();
            if let Core::Idle(device) = &mut self.core {
                device.reset();
            }
        }
        self.vring(index)?.ring.set_next_avail(base);
        if anew { self.settle() } else { Ok(()) }
    }

    fn get_vring_base(&mut self, index: u32) -> WireResult<VhostUserVringState> {
        self.halt();
        let vring = self.vring(index)?;
        vring.kick = None;
        vring.call.set(None);
        vring.ring.set_ready(false);
        let next = u32::from(vring.ring.next_avail());
        self.settle()?;
        Ok(VhostUserVringState::new(index, next))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        self.vring(index)?.kick = fd.map(sys::eventfd);
        self.settle()
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        self.vring(index)?.call.set(fd.map(sys::eventfd));
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> WireResult<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> WireResult<VhostUserProtocolFeatures> {
        let features = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::RESET_DEVICE;
        // Frontends of file systems know the configuration (the tag) themselves, and complain when it is offered.
        Ok(if self.kind == VIRTIO_ID_FS {
            features
        } else {
            features | VhostUserProtocolFeatures::CONFIG
        })
    }

    fn set_protocol_features(&mut self, _features: u64) -> WireResult<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> WireResult<u64> {
        u64::try_from(self.vrings.len()).map_err(bad)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> WireResult<()> {
        let vring = self.vring(index)?;
        if vring.enabled == enable {
            return Ok(());
        }
        vring.enabled = enable;
        self.settle()
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> WireResult<Vec<u8>> {
        let from = usize::try_from(offset).map_err(bad)?;
        let len = usize::try_from(size).map_err(bad)?;
        let mut out = self.config.get(from..).unwrap_or_default().to_vec();
        out.resize(len, 0);
        Ok(out)
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> WireResult<()> {
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> WireResult<u64> {
        absent("memory slots are not offered")
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> WireResult<()> {
        absent("this is no GPU")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> WireResult<File> {
        absent("shared objects are not offered")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> WireResult<(VhostUserInflight, File)> {
        absent("inflight tracking is not offered")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> WireResult<()> {
        absent("inflight tracking is not offered")
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _fd: File) -> WireResult<()> {
        absent("memory slots are not offered")
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> WireResult<()> {
        absent("memory slots are not offered")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> WireResult<Option<File>> {
        absent("state transfer is not offered")
    }

    fn check_device_state(&mut self) -> WireResult<()> {
        absent("state transfer is not offered")
    }

    fn get_shmem_config(&mut self) -> WireResult<VhostUserShMemConfig> {
        absent("shared memory is not offered")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> WireResult<()> {
        absent("dirty logging is not offered")
    }
}
