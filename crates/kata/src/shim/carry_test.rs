// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A shim between stubs of the monitor and of the guest's stream port.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use base::Kind;
use protobuf::Message;

use super::super::stream::stub as guest;
use super::*;
use crate::link::stub as monitor;

/// A sandbox directory with listeners in it.
struct Sandbox {
    dir: tempfile::TempDir,
    monitor: std::os::unix::net::UnixListener,
    guest: std::os::unix::net::UnixListener,
}

fn sandbox() -> Sandbox {
    let dir = tempfile::tempdir().unwrap();
    let listen = |name: &str| base::socket::listen(&dir.path().join(name)).unwrap();
    let (monitor, guest) = (listen("monitor.sock"), listen("vsock.sock"));
    Sandbox { dir, monitor, guest }
}

fn expect(socket: &mut UnixStream, method: &str) -> (u32, Vec<u8>) {
    let (stream, _, got, payload) = monitor::request(socket).unwrap();
    assert_eq!(got, method);
    (stream, payload)
}

fn carry(dir: &std::path::Path, exec_id: &str, start: bool, stdio: Stdio) -> Result<u8> {
    let carry = Carry {
        dir: dir.to_owned(),
        id: "c1".into(),
        exec_id: exec_id.into(),
        start,
        stdio,
    };
    carry.run(|| Ok(()))
}

#[test]
fn streams_and_the_exit_code_come_through_and_output_is_drained_last() {
    let Sandbox { dir, monitor, guest } = sandbox();
    let peer = thread::spawn(move || {
        let (mut link, _) = monitor.accept().unwrap();
        let (attach, _) = expect(&mut link, "Attach");
        monitor::respond(&mut link, attach, Ok(&AttachResponse::new()));
        let (hello, mut input) = guest::accept(&guest, None);
        assert_eq!((hello.id.as_str(), hello.fd), ("c1", 0));
        let mut streams = [(); 2].map(|()| guest::accept(&guest, None).1);
        let (wait, _) = expect(&mut link, "Wait");
        let (start, _) = expect(&mut link, "Start");
        monitor::respond(&mut link, start, Ok(&StartResponse::new()));
        let mut got = String::new();
        input.read_to_string(&mut got).unwrap();
        let response = WaitResponse {
            exit_status: 42,
            ..WaitResponse::default()
        };
        monitor::respond(&mut link, wait, Ok(&response));
        streams[1].write_all(b"err").unwrap();
        streams[0].write_all(got.to_uppercase().as_bytes()).unwrap();
    });
    let (mut stdin, input) = UnixStream::pair().unwrap();
    let (output, mut stdout) = UnixStream::pair().unwrap();
    let (error, mut stderr) = UnixStream::pair().unwrap();
    stdin.write_all(b"hello").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    let stdio = Stdio::Streams([Some(input.into()), Some(output.into()), Some(error.into())]);
    assert_eq!(carry(dir.path(), "", true, stdio).unwrap(), 42);
    peer.join().unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(text, "HELLOerr");
}

#[test]
fn a_process_that_ends_at_once_is_not_waited_for_again() {
    let Sandbox { dir, monitor, guest } = sandbox();
    let peer = thread::spawn(move || {
        let (mut link, _) = monitor.accept().unwrap();
        let (attach, _) = expect(&mut link, "Attach");
        monitor::respond(&mut link, attach, Ok(&AttachResponse::new()));
        drop(guest::accept(&guest, None));
        let (wait, _) = expect(&mut link, "Wait");
        let (start, _) = expect(&mut link, "Start");
        // Both answers in one piece.
        let (mut piece, mut bytes) = UnixStream::pair().unwrap();
        monitor::respond(&mut piece, start, Ok(&StartResponse::new()));
        let response = WaitResponse {
            exit_status: 7,
            ..WaitResponse::default()
        };
        monitor::respond(&mut piece, wait, Ok(&response));
        drop(piece);
        let mut both = Vec::new();
        bytes.read_to_end(&mut both).unwrap();
        link.write_all(&both).unwrap();
        // Nothing more comes, and the monitor stays.
        link
    });
    let (output, _stdout) = UnixStream::pair().unwrap();
    let code = carry(dir.path(), "", true, Stdio::Streams([None, Some(output.into()), None])).unwrap();
    assert_eq!(code, 7);
    drop(peer.join().unwrap());
}

#[test]
fn a_process_starts_before_its_streams_and_its_refusal_is_told() {
    let Sandbox {
        dir,
        monitor,
        guest: _guest,
    } = sandbox();
    let peer = thread::spawn(move || {
        let (mut link, _) = monitor.accept().unwrap();
        let (attach, _) = expect(&mut link, "Attach");
        monitor::respond(&mut link, attach, Ok(&AttachResponse::new()));
        let (start, _) = expect(&mut link, "Start");
        let error = Error::new(Kind::NotFound, "exec: \"x\": executable file not found in $PATH");
        monitor::respond(&mut link, start, Err(error));
    });
    let error = carry(dir.path(), "e1", false, Stdio::Streams([None, None, None])).unwrap_err();
    assert!(error.chain().contains("executable file not found"), "{}", error.chain());
    peer.join().unwrap();
}

#[test]
fn a_monitor_that_goes_means_137() {
    let Sandbox { dir, monitor, guest } = sandbox();
    let peer = thread::spawn(move || {
        let (mut link, _) = monitor.accept().unwrap();
        let (attach, _) = expect(&mut link, "Attach");
        monitor::respond(&mut link, attach, Ok(&AttachResponse::new()));
        let (_, output) = guest::accept(&guest, None);
        expect(&mut link, "Wait");
        drop(link);
        drop(output);
    });
    let (output, _stdout) = UnixStream::pair().unwrap();
    let stdio = Stdio::Streams([None, Some(output.into()), None]);
    assert_eq!(carry(dir.path(), "", false, stdio).unwrap(), LOST);
    peer.join().unwrap();
}

#[test]
fn a_terminal_has_one_stream_its_size_is_told_and_raw_mode_ends() {
    let Sandbox { dir, monitor, guest } = sandbox();
    let pair = nix::pty::openpty(None, None).unwrap();
    let before = nix::sys::termios::tcgetattr(&pair.slave).unwrap();
    super::super::sys::resize(pair.slave.as_fd(), Size { rows: 33, columns: 111 }).unwrap();
    let peer = thread::spawn(move || {
        let (mut link, _) = monitor.accept().unwrap();
        let (attach, _) = expect(&mut link, "Attach");
        monitor::respond(&mut link, attach, Ok(&AttachResponse::new()));
        let (hello, mut stream) = guest::accept(&guest, None);
        assert_eq!(hello.fd, 0);
        let (wait, _) = expect(&mut link, "Wait");
        let (_, resize) = expect(&mut link, "ResizePty");
        let resize = ResizePtyRequest::parse_from_bytes(&resize).unwrap();
        assert_eq!((resize.height, resize.width), (33, 111));
        let mut key = [0];
        stream.read_exact(&mut key).unwrap();
        stream.write_all(b"<").unwrap();
        stream.write_all(&key).unwrap();
        monitor::respond(&mut link, wait, Ok(&WaitResponse::new()));
    });
    let mut keyboard = std::fs::File::from(pair.master);
    keyboard.write_all(b"\x03").unwrap();
    let stdio = Stdio::Terminal {
        input: pair.slave.try_clone().unwrap(),
        output: pair.slave.try_clone().unwrap(),
    };
    // Typed before raw mode, the key would be a signal to nobody and lost.
    thread::scope(|scope| {
        let carried = scope.spawn(|| carry(dir.path(), "", false, stdio).unwrap());
        while !carried.is_finished() && nix::sys::termios::tcgetattr(&pair.slave).unwrap() == before {
            thread::yield_now();
        }
        keyboard.write_all(b"\x03").unwrap();
        assert_eq!(carried.join().unwrap(), 0);
    });
    peer.join().unwrap();
    // The kernel brings what was written to the other end a moment later, and in parts.
    let mut shown = Vec::new();
    while !shown.ends_with(b"<\x03") {
        let mut polled = [PollFd::new(keyboard.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut polled, PollTimeout::from(10_000_u16)).unwrap(),
            1,
            "{shown:?}"
        );
        let mut part = [0; 16];
        let n = keyboard.read(&mut part).unwrap();
        shown.extend_from_slice(&part[..n]);
    }
    let after = nix::sys::termios::tcgetattr(&pair.slave).unwrap();
    assert_eq!(before.local_flags, after.local_flags);
}
