// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where a machine's memory is, and which of it the guest leaves alone until it is told to grow.
//!
//! The machine has all its memory from the beginning; what is not touched costs nothing. The guest's kernel is told that the part
//! which it does not boot with is reserved for later (`soft reserved`), so that it neither maps nor describes it.
//!
//! ```text
//! 0          boot-128      low end-128    low end ≤ 3 GiB      4 GiB                 end      +2
//! ├── RAM ───┼── later ────┼──── RAM ─────┤  devices ...       ├──── later ──────────┼─ RAM ─┤
//! ```
//!
//! The firmware puts the initramfs at the end of the low memory: RAM. The last RAM stands behind all that is later, for a kernel
//! takes memory behind its last RAM for that of an unknown node.

use std::fs::File;
use std::ops::Range;

use base::{Context, Error, Kind, Result};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::{MachineSpec, template};

const MIB: u64 = 1 << 20;
/// Where a microvm's devices begin, MiB.
const LOW: u64 = 3072;
/// Where its other memory begins, MiB.
const HIGH: u64 = 4096;
/// RAM at the end of the low memory, MiB. Memory comes and goes in blocks of this size.
const TAIL: u64 = 128;
/// RAM behind the high memory, MiB.
const LAST: u64 = 2;
/// The kernel's number for memory that is reserved for a purpose (`E820_TYPE_SOFT_RESERVED`).
const SOFT_RESERVED: u32 = 0xefff_ffff;

/// See the module. Sizes in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    boot: u64,
    most: u64,
}

impl Layout {
    /// Of the machine `spec`.
    pub fn of(spec: &MachineSpec) -> Layout {
        // A machine that is too small to be cut does not grow.
        let fixed = spec.memory_mib < 2 * TAIL;
        // The kernel hands it out in pieces of 2 MiB.
        let even = |mib: u64| mib.saturating_add(mib % 2);
        let boot = even(spec.memory_mib);
        Layout {
            boot,
            most: if fixed {
                boot
            } else {
                boot.max(even(spec.most_memory_mib))
            },
        }
    }

    /// All memory of the machine, MiB.
    pub fn total_mib(self) -> u64 {
        if self.most > self.boot && self.most > LOW {
            self.most.saturating_add(LAST)
        } else {
            self.most
        }
    }

    /// All of it, empty.
    pub fn memory(self) -> Result<File> {
        template::memory(self.total_mib())
    }

    /// Guest addresses that the guest may take later, MiB.
    fn later_mib(self) -> Vec<Range<u64>> {
        if self.most == self.boot {
            return Vec::new();
        }
        let above = |size: u64| HIGH + size.saturating_sub(LOW);
        let high = above(self.boot)..above(self.most);
        let low = self.boot.saturating_sub(TAIL)..self.most.min(LOW) - TAIL;
        let ranges = if self.boot >= LOW { vec![high] } else { vec![low, high] };
        ranges.into_iter().filter(|range| !range.is_empty()).collect()
    }

    /// Guest addresses that the guest may take later, in bytes and in the order in which it should.
    pub fn later(self) -> Vec<Range<u64>> {
        let bytes = |range: Range<u64>| range.start * MIB..range.end * MIB;
        self.later_mib().into_iter().map(bytes).collect()
    }

    /// Words for the kernel's command line, each with a space before it.
    pub fn params(self) -> String {
        let later = self.later_mib();
        let mut params = String::new();
        for range in &later {
            let (size, start) = (range.end - range.start, range.start * MIB);
            params.push_str(&format!(" memmap={size}M%{start:#x}-1+{SOFT_RESERVED:#x}"));
        }
        if !later.is_empty() && self.most > LOW {
            // Else 64 MiB for devices that do not reach high addresses: there is none.
            params.push_str(" swiotlb=noforce");
        }
        params
    }

    /// Gives the host back what is in `memory` at these guest addresses, which the guest does not use any more. Errors: `Invalid`
    /// for addresses that are not among those which it could take.
    pub fn discard(self, memory: &File, addresses: &Range<u64>) -> Result<()> {
        let what = || format!("discard guest memory {:#x} to {:#x}", addresses.start, addresses.end);
        let inside = |later: &Range<u64>| later.start <= addresses.start && addresses.end <= later.end;
        if addresses.is_empty() || !self.later().iter().any(inside) {
            return Err(Error::new(Kind::Invalid, what()).because("the guest may not give it back"));
        }
        let gap = if addresses.start >= HIGH * MIB {
            (HIGH - LOW) * MIB
        } else {
            0
        };
        let offset = |address: u64| i64::try_from(address).context(Kind::Invalid, what);
        let (start, length) = (offset(addresses.start - gap)?, offset(addresses.end - addresses.start)?);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(memory, hole, start, length).attempt(what)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn layout(boot: u64, most: u64) -> Layout {
        Layout { boot, most }
    }

    #[test]
    fn what_comes_later_is_all_but_what_it_boots_with() {
        for (boot, most) in [
            (256, 2048),
            (300, 3072),
            (768, 8192),
            (2048, 8192),
            (3070, 3072),
            (3072, 8192),
            (4096, 16384),
        ] {
            let layout = layout(boot, most);
            let later: u64 = layout.later_mib().iter().map(|range| range.end - range.start).sum();
            assert_eq!(later + boot, most, "{boot} of {most}");
            let last = u64::from(most > LOW) * LAST;
            assert_eq!(layout.total_mib(), most + last);
            let ram = |at: u64| !layout.later_mib().iter().any(|range| range.contains(&at));
            assert!(ram(0) && ram(TAIL - 1) && ram(most.min(LOW) - 1), "{boot}");
        }
        assert_eq!(layout(768, 8192).later_mib(), [640..2944, 4096..9216]);
        let high = layout(4096, 8192).later_mib();
        assert_eq!((high.len(), high[0].clone()), (1, 5120..9216));
        let params = " memmap=2304M%0x28000000-1+0xefffffff memmap=5120M%0x100000000-1+0xefffffff swiotlb=noforce";
        assert_eq!(layout(768, 8192).params(), params);
    }

    #[test]
    fn a_machine_that_does_not_grow_is_told_nothing() {
        for fixed in [layout(2048, 2048), layout(8192, 8192)] {
            assert!(fixed.later().is_empty() && fixed.params().is_empty());
            assert_eq!(fixed.total_mib(), fixed.boot);
        }
    }

    #[test]
    fn only_what_came_later_is_discarded() {
        let layout = layout(256, 3072);
        let memory = layout.memory().unwrap();
        for at in [0, 200, 2900, 3000] {
            memory.write_all_at(b"x", at * MIB).unwrap();
        }
        let blocks = memory.metadata().unwrap().blocks();
        layout.discard(&memory, &(128 * MIB..2944 * MIB)).unwrap();
        assert_eq!(memory.metadata().unwrap().blocks() * 2, blocks);
        for wrong in [0..MIB, 2944 * MIB..3072 * MIB, MIB..MIB, HIGH * MIB..(HIGH + 1) * MIB] {
            assert_eq!(layout.discard(&memory, &wrong).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
