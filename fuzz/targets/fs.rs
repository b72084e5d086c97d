// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! FUSE messages of any content and order, through the file system device, on a directory with a little in it and a link out of it.

#![no_main]

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use devices::fs::{Fs, Share};
use fuzz::{byte, describe, guest, offer, put, take};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use virtio::Device;

const REQUESTS: usize = 1;
const BUFFER: u64 = 128 << 10;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INIT: u32 = 26;

fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((40 + body.len() as u32).to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

libfuzzer_sys::fuzz_target!(
    init: {
        // A guest may ask for a file of any size: not on this disk.
        setrlimit(Resource::RLIMIT_FSIZE, 32 << 20, 32 << 20).expect("limit file sizes");
        // SAFETY: ignoring a signal runs no code.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("ignore the signal");
    },
    |bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("make a directory");
    fs::write(dir.path().join("f"), "file").expect("write");
    fs::create_dir(dir.path().join("d")).expect("make a directory");
    symlink("/", dir.path().join("l")).expect("link");
    let mut device = Fs::new(Share {
        root: dir.path(),
        tag: "fuzz",
        descriptors: File::open("/proc/self/fd").expect("open"),
        mounts: File::open("/proc/self/mountinfo").expect("open"),
        most_files: 100,
        handles: false,
        record: None,
        read_only: false,
    })
    .expect("share the directory");
    let mut act = guest(2);
    let mut data = bytes;
    let mut count = 0_u16;
    // Version 7.36, read-ahead, all flags of the first word but its extension; then as the input says.
    let mut next = Some(message(INIT, 0, &[7_u32, 36, 1 << 20, (1 << 30) - 1].map(u32::to_le_bytes).concat()));
    while let Some(request) = next.take() {
        put(&act, BUFFER, &request);
        describe(&act, REQUESTS, 0, BUFFER, request.len() as u32, NEXT, 1);
        describe(&act, REQUESTS, 1, BUFFER + (256 << 10), 64 << 10, WRITE, 0);
        offer(&act, REQUESTS, 0, count);
        count = count.wrapping_add(1);
        if device.queue(REQUESTS, &mut act).is_err() {
            return;
        }
        if !data.is_empty() && count < 200 {
            let opcode = u32::from(byte(&mut data)) % 60;
            let node = u64::from(byte(&mut data) % 8);
            let len = usize::from(byte(&mut data));
            next = Some(message(opcode, node, take(&mut data, len)));
        }
    }
});
