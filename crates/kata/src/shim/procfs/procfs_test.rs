// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The file system between stubs of the kernel, which asks over a pair of sockets that keep messages apart, and of the monitor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use api::agent::ProcessFiles;
use base::Error;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::link::stub as monitor;

/// What the kernel is, with what it talks to.
struct Stage {
    procfs: Procfs,
    link: Link,
    kernel: File,
    monitor: UnixStream,
}

fn stage() -> Stage {
    let pair = |flags| socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let (device, kernel): (OwnedFd, OwnedFd) = pair(SockFlag::SOCK_NONBLOCK);
    let (ours, monitor) = UnixStream::pair().unwrap();
    let mount = Mount {
        device: device.into(),
        root: Root::Proc,
    };
    Stage {
        procfs: Procfs::new("c1".into(), vec![mount]),
        link: Link::over(ours),
        kernel: kernel.into(),
        monitor,
    }
}

impl Stage {
    /// Asks as request `unique`.
    fn ask(&mut self, unique: u64, opcode: u32, node: u64, body: &[u8]) {
        let mut bytes = 0_u32.to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.resize(40, 0);
        bytes.extend(body);
        self.kernel.write_all(&bytes).unwrap();
        self.procfs.serve(&[true], &mut self.link);
    }

    /// The next answer: of which request, and its body or error.
    fn told(&mut self) -> Option<(u64, Result<Vec<u8>, i32>)> {
        let mut buffer = [0; 8192];
        let length = self.kernel.read(&mut buffer).ok()?;
        let errno = i32::from_ne_bytes(buffer[4..8].try_into().unwrap());
        let unique = u64::from_ne_bytes(buffer[8..16].try_into().unwrap());
        let body = if errno == 0 {
            Ok(buffer[16..length].to_vec())
        } else {
            Err(-errno)
        };
        Some((unique, body))
    }

    /// The monitor is asked for processes after `after` and says that there are `pids`.
    fn say(&mut self, after: u32, pids: &[u32], more: bool) {
        let (stream, _, method, payload) = monitor::request(&mut self.monitor).unwrap();
        assert_eq!(method, "Processes");
        assert_eq!(ProcessesRequest::parse_from_bytes(&payload).unwrap().after, after);
        let processes = pids.iter().map(|pid| ProcessFiles {
            pid: *pid,
            comm: format!("p{pid}\n").into_bytes(),
            ..ProcessFiles::default()
        });
        let part = ReadProcessesResponse {
            processes: processes.collect(),
            more,
            ..ReadProcessesResponse::default()
        };
        let response = ProcessesResponse {
            table: part.write_to_bytes().unwrap(),
            ..ProcessesResponse::default()
        };
        monitor::respond(&mut self.monitor, stream, Ok(&response));
        let answer = self.link.receive().unwrap();
        assert!(self.procfs.answered(answer, &mut self.link).is_none());
    }
}

fn read(handle: u64, offset: u64) -> Vec<u8> {
    let mut body = handle.to_ne_bytes().to_vec();
    body.extend(offset.to_ne_bytes());
    body.extend(4096_u32.to_ne_bytes());
    body
}

const LOOKUP: u32 = 1;
const ATTRIBUTES: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const INTERRUPT: u32 = 36;

#[test]
fn the_guest_is_asked_once_and_in_parts_when_somebody_looks() {
    let mut s = stage();
    s.ask(1, ATTRIBUTES, tree::ROOT, &[]);
    assert!(s.told().unwrap().1.is_ok(), "the root needs no guest");
    s.ask(2, LOOKUP, tree::ROOT, b"self\0");
    assert_eq!(s.told().unwrap(), (2, Err(libc::ENOENT)));
    s.ask(3, OPENDIR, tree::ROOT, &[]);
    s.ask(4, LOOKUP, tree::ROOT, b"9\0");
    assert!(s.told().is_none());
    s.say(0, &[1], true);
    s.say(1, &[9], false);
    let (three, opened) = s.told().unwrap();
    let (four, entry) = s.told().unwrap();
    assert_eq!((three, four), (3, 4));
    let handle = u64::from_ne_bytes(opened.unwrap()[..8].try_into().unwrap());
    s.ask(5, READDIR, tree::ROOT, &read(handle, 0));
    assert_eq!(s.told().unwrap().1.unwrap().len(), 4 * 32);
    // The second look comes soon: nobody is asked again.
    let process = u64::from_ne_bytes(entry.unwrap()[..8].try_into().unwrap());
    s.ask(6, LOOKUP, process, b"comm\0");
    let comm = u64::from_ne_bytes(s.told().unwrap().1.unwrap()[..8].try_into().unwrap());
    s.ask(7, OPEN, comm, &[]);
    let handle = u64::from_ne_bytes(s.told().unwrap().1.unwrap()[..8].try_into().unwrap());
    s.ask(8, READ, comm, &read(handle, 0));
    assert_eq!(s.told().unwrap(), (8, Ok(b"p9\n".to_vec())));
    s.ask(9, READ, comm, &read(handle, 3));
    assert_eq!(s.told().unwrap(), (9, Ok(Vec::new())));
    s.ask(10, RELEASE, comm, &handle.to_ne_bytes());
    assert!(s.told().unwrap().1.is_ok());
    s.ask(11, READ, comm, &read(handle, 0));
    assert_eq!(s.told().unwrap(), (11, Err(libc::EBADF)));
}

#[test]
fn whoever_waits_is_told_of_interrupts_failures_and_silence() {
    let mut s = stage();
    s.ask(1, OPENDIR, tree::ROOT, &[]);
    s.ask(2, OPENDIR, tree::ROOT, &[]);
    s.ask(3, INTERRUPT, 0, &1_u64.to_ne_bytes());
    assert_eq!(s.told().unwrap(), (1, Err(libc::EINTR)));
    let (stream, ..) = monitor::request(&mut s.monitor).unwrap();
    let refusal = Error::new(Kind::Timeout, "guest");
    monitor::respond(&mut s.monitor, stream, Err(refusal));
    let answer = s.link.receive().unwrap();
    assert!(s.procfs.answered(answer, &mut s.link).is_none());
    assert_eq!(s.told().unwrap(), (2, Err(libc::ETIMEDOUT)));
    assert!(s.procfs.due().is_none());
    // That it failed holds for a moment, too.
    s.ask(4, OPENDIR, tree::ROOT, &[]);
    assert_eq!(s.told().unwrap(), (4, Err(libc::ETIMEDOUT)));

    let mut s = stage();
    s.ask(5, OPENDIR, tree::ROOT, &[]);
    s.procfs.expire();
    assert!(s.told().is_none(), "there is still time");
    s.procfs.asked.as_mut().unwrap().since -= PATIENCE;
    s.procfs.expire();
    assert_eq!(s.told().unwrap(), (5, Err(libc::ETIMEDOUT)));
    // The answer that comes too late is nobody's.
    let (stream, ..) = monitor::request(&mut s.monitor).unwrap();
    monitor::respond(&mut s.monitor, stream, Ok(&ProcessesResponse::new()));
    let answer = s.link.receive().unwrap();
    assert!(s.procfs.answered(answer, &mut s.link).is_some());
}

#[test]
fn nonsense_of_the_guest_is_an_error() {
    let mut s = stage();
    s.ask(1, OPENDIR, tree::ROOT, &[]);
    let (stream, ..) = monitor::request(&mut s.monitor).unwrap();
    let response = ProcessesResponse {
        table: vec![0xff; 9],
        ..ProcessesResponse::default()
    };
    monitor::respond(&mut s.monitor, stream, Ok(&response));
    let answer = s.link.receive().unwrap();
    assert!(s.procfs.answered(answer, &mut s.link).is_none());
    assert_eq!(s.told().unwrap(), (1, Err(libc::EIO)));
}
