// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Records of the host's kernel, in which names are whoever's made the files, a guest too.

#![no_main]

// The library keeps it to itself.
#[path = "../../crates/sandbox/src/changes/record.rs"]
mod record;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut told = 0;
    for record in record::all(bytes) {
        let _ = (record.overflow(), record.kind(), record.pid);
        for (identity, name) in record.places() {
            assert!(!name.contains(&0) && name != b".");
            told += identity.len() + name.len();
        }
    }
    assert!(told <= bytes.len(), "nothing is told twice");
});
