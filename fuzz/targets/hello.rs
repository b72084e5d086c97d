// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The first bytes of a stream, and the answer to them.

#![no_main]

use api::stream::{Hello, answer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut from = bytes;
    if let Ok(hello) = Hello::decode(&mut from) {
        let read = bytes.len() - from.len();
        assert_eq!(hello.encode().expect("what was read can be written"), bytes[..read]);
    }
    let _ = answer(&mut { bytes });
});
