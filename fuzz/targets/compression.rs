// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Compressed data: whatever comes out fits the limit.

#![no_main]

use guest_image::compression;

const LIMIT: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(content) = compression::expand(bytes, LIMIT) {
        assert!(content.len() <= LIMIT);
    }
});
