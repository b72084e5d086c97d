// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Packets of any content and order, between host programs that come and go.

#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use devices::vsock::{Header, Muxer};
use fuzz::{byte, take};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("make a directory");
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).expect("listen");
    let dialled = Arc::new(Mutex::new(Vec::new()));
    let ends = dialled.clone();
    let dial = Box::new(move |port: u32| {
        let (ours, theirs) = UnixStream::pair()?;
        if port % 2 == 0 {
            ours.set_nonblocking(true)?;
            ends.lock().expect("one thread").push(ours);
        }
        Ok(theirs)
    });
    let mut muxer = Muxer::new(3, listener, dial).expect("make the muxer");
    let mut programs: Vec<UnixStream> = Vec::new();
    let mut data = bytes;
    while !data.is_empty() {
        let which = byte(&mut data);
        match which % 8 {
            0 if programs.len() < 16 => {
                let mut program = UnixStream::connect(&path).expect("connect");
                program.set_nonblocking(true).expect("nonblocking");
                let line = format!("CONNECT {}\n", which % 3);
                let _ = program.write_all(if which > 250 {
                    take(&mut data, 40)
                } else {
                    line.as_bytes()
                });
                programs.push(program);
            }
            1 if !programs.is_empty() => drop(programs.remove(usize::from(which) % programs.len())),
            2 => programs
                .iter_mut()
                .chain(dialled.lock().expect("one thread").iter_mut())
                .for_each(|program| {
                    let _ = program.read(&mut [0; 4096]);
                    let _ = program.write_all(b"some bytes of the host's");
                }),
            3 => {
                muxer.host_events();
                while muxer.next_packet(usize::from(which) * 16).is_some() {}
            }
            4 if which > 200 => muxer.reset(),
            _ => {
                let host = if which & 64 == 0 {
                    u32::from(which % 3)
                } else {
                    (1 << 30) + 1 + u32::from(which % 3)
                };
                let len = usize::from(byte(&mut data)) * 257;
                muxer.scratch(len.min(64 << 10)).fill(which);
                let flags = u32::from(byte(&mut data));
                let header = Header {
                    src_cid: if flags > 250 { 4 } else { 3 },
                    dst_cid: 2,
                    src_port: u32::from(which / 3 % 3),
                    dst_port: host,
                    len: len as u32,
                    kind: 1 + u16::from(flags == 249),
                    op: u16::from(byte(&mut data) % 9),
                    flags: flags & 3,
                    buf_alloc: u32::from(byte(&mut data)) << 24 >> (flags & 31),
                    fwd_cnt: u32::from(byte(&mut data)),
                };
                muxer.packet(&header);
            }
        }
    }
});
