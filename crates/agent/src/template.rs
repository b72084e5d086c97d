// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A guest that is frozen when it serves, and goes on in copies, with the devices that it knows; network devices come later.
//!
//! Until a copy has been greeted, nothing may happen here that must differ between copies: no random number, no boot id.

use std::fs;
use std::hint;
use std::io::{self, Write};

use api::template::{PARAMETER, READY, SHARE};
use nix::sys::prctl::set_thp_disable;

use crate::share::Shares;

/// Free memory that is cleared: the kernel hands out first what it got back last.
const WIPED_MIB: usize = 128;
const PIECE_MIB: usize = 16;
const PAGE: usize = 4096;

/// Whether this guest is to be one, by the kernel's command line.
pub fn wanted(line: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word == PARAMETER)
}

/// Mounts the share and says that the guest may be frozen. Blocks for some milliseconds.
pub fn offer(shares: &Shares) {
    // Whoever needs it tries again, and tells.
    if let Err(e) = shares.mount(SHARE) {
        log::error!("{}", e.chain());
    }
    wipe();
    // A console that takes nothing is no reason to end.
    let _ = writeln!(io::stderr(), "{READY}");
}

/// Leaves zeros in free memory, where the boot has left what it does not need any more: pages of zeros are not copied. The kernel
/// clears what it gives us; what it gives back to itself stays clear.
fn wipe() {
    let taken: Vec<Vec<u8>> = (0..(free_mib() / 2).min(WIPED_MIB) / PIECE_MIB)
        .map(|number| {
            // The first one takes single pages, as they lie about between others; large ones come from where all is free. A kernel
            // without large pages gives no others anyway.
            let _ = set_thp_disable(number == 0);
            let mut piece = vec![0; PIECE_MIB << 20];
            piece
                .iter_mut()
                .step_by(PAGE)
                .for_each(|byte| *hint::black_box(byte) = 0);
            piece
        })
        .collect();
    let _ = set_thp_disable(false);
    drop(hint::black_box(taken));
}

/// By the kernel's count; 0 if it does not say.
fn free_mib() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_word_makes_a_template() {
        assert!(wanted("quiet kata.template kata.debug"));
        assert!(!wanted("quiet kata.templates kata.template=0"));
    }
}
