// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A kernel module's own description.

#![no_main]

use guest_image::elf;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = elf::modinfo(bytes);
    let _ = elf::check_static(bytes);
});
