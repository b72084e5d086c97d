// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A kernel image: no bytes may panic, read beyond the end, or expand without bound.

#![no_main]

use guest_image::{bzimage, elf};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = bzimage::release(bytes);
    if let Ok(kernel) = bzimage::vmlinux(bytes) {
        assert!(elf::pvh_entry(&kernel).is_ok());
    }
});
