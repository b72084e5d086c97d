// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Rings and descriptor chains of any content, in front of the vsock device.

#![no_main]

use std::io;
use std::os::unix::net::UnixListener;

use devices::vsock::Vsock;
use fuzz::{guest, put, take};
use virtio::Device;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("make a directory");
    let listener = UnixListener::bind(dir.path().join("s")).expect("listen");
    let dial = Box::new(|_| Err(io::ErrorKind::ConnectionRefused.into()));
    let mut device = Vsock::new(3, listener, dial).expect("make the device");
    let mut act = guest(2);
    // The available part of both rings, their descriptors, then buffers.
    let mut data = bytes;
    for (at, len) in [(0x4000, 38), (0x1000, 38), (0x3000, 256), (0, 256), (0x6000, usize::MAX)] {
        put(&act, at, take(&mut data, len));
    }
    for _ in 0..4 {
        for index in [1, 0] {
            if device.queue(index, &mut act).is_err() {
                return;
            }
        }
    }
});
