// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a container has of the machine, beside its processes and control group.

use std::sync::Arc;

use guest::FileSystem;

use crate::disk::Disks;
use crate::memory::Memory;

/// See above. Given back on drop, in this order.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Mounted for it.
    pub file_systems: Vec<FileSystem>,
    /// What it shares with others.
    pub memories: Vec<Arc<Memory>>,
    disks: Disks,
}

impl Holdings {
    /// Block devices, and nothing on them yet.
    pub fn of(disks: Disks) -> Holdings {
        Holdings {
            disks,
            ..Holdings::default()
        }
    }

    /// Gives all of it back, when nothing of the container runs any more.
    pub fn release(&mut self) {
        self.file_systems.clear();
        self.memories.clear();
        self.disks.release();
    }
}
