// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Streams over socket pairs, pipes and a pty of this machine.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::*;

const SIZE: usize = 3 << 20;

fn pattern() -> Vec<u8> {
    (0..SIZE).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

#[tokio::test(flavor = "current_thread")]
async fn output_is_exact_and_ends() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (ours, mut host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Output(reader.into())));
    let writing = std::thread::spawn(move || writer.write_all(&pattern()).unwrap());
    let mut got = Vec::new();
    soon(host.read_to_end(&mut got)).await.unwrap();
    assert!(got == pattern());
    soon(carried).await.unwrap().unwrap();
    writing.join().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn input_is_exact_and_its_end_ends_the_pipe() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (ours, mut host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Input(writer.into())));
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got
    });
    soon(host.write_all(&pattern())).await.unwrap();
    host.shutdown().await.unwrap();
    soon(carried).await.unwrap().unwrap();
    assert!(reading.join().unwrap() == pattern());
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_that_does_not_read_any_more_breaks_the_writers_pipe() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (ours, host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Output(reader.into())));
    drop(host);
    let writing = std::thread::spawn(move || {
        loop {
            if let Err(e) = writer.write_all(&[0; 4096]) {
                break e.kind();
            }
        }
    });
    assert!(soon(carried).await.unwrap().is_err());
    assert_eq!(writing.join().unwrap(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "current_thread")]
async fn input_that_nobody_reads_ends_the_connection() {
    let (reader, writer) = io::pipe().unwrap();
    let (ours, mut host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Input(writer.into())));
    tokio::task::yield_now().await;
    drop(reader);
    soon(carried).await.unwrap().unwrap();
    assert_eq!(soon(host.read(&mut [0])).await.unwrap(), 0);
}

fn raw_terminal() -> (Arc<OwnedFd>, File) {
    let pty = openpty(None, None).unwrap();
    let mut modes = tcgetattr(&pty.slave).unwrap();
    cfmakeraw(&mut modes);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &modes).unwrap();
    (Arc::new(pty.master), File::from(pty.slave))
}

#[tokio::test(flavor = "current_thread")]
async fn a_terminal_carries_both_ways_and_ends_with_its_last_output() {
    let (master, mut slave) = raw_terminal();
    let (ours, mut host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Terminal(master)));
    soon(host.write_all(b"typed")).await.unwrap();
    let process = std::thread::spawn(move || {
        let mut keys = [0; 5];
        slave.read_exact(&mut keys).unwrap();
        slave.write_all(&pattern()).unwrap();
        keys
    });
    let mut got = Vec::new();
    soon(host.read_to_end(&mut got)).await.unwrap();
    assert_eq!(&process.join().unwrap(), b"typed");
    assert!(got == pattern(), "{} bytes", got.len());
    soon(host.write_all(b"too late")).await.unwrap();
    drop(host);
    soon(carried).await.unwrap().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_terminal_whose_host_typed_all_still_shows() {
    let (master, mut slave) = raw_terminal();
    let (ours, mut host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Terminal(master)));
    host.shutdown().await.unwrap();
    tokio::task::yield_now().await;
    slave.write_all(b"shown").unwrap();
    drop(slave);
    let mut got = String::new();
    soon(host.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "shown");
    soon(carried).await.unwrap().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_terminal_hangs_up_when_the_host_has_gone() {
    let (master, mut slave) = raw_terminal();
    let (ours, host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(relay(ours, End::Terminal(master)));
    drop(host);
    slave.write_all(b"into the void").unwrap();
    assert!(soon(carried).await.unwrap().is_err());
    assert!(slave.write_all(b"x").is_err());
}
