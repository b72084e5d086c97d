// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Connections to 127.0.0.1 in the network namespace that the engine prepared. Who enters it to reach a container's services there
//! (`kubectl port-forward` does) means the loopback interface of the machine: here nobody else listens. A program in the kernel
//! gives them to one listener, whatever their port is.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use base::{Context, Result};

use crate::sys;

/// Offsets in what the kernel tells about a connection, `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
/// Functions of the kernel's.
const MAP_LOOKUP: i32 = 1;
const RELEASE: i32 = 86;
const ASSIGN: i32 = 124;

/// See the module. Both go when it is dropped.
#[derive(Debug)]
pub struct Loopback {
    listener: TcpListener,
    /// Keeps the program in the namespace.
    _link: OwnedFd,
}

impl Loopback {
    /// In the network namespace of this thread.
    pub fn catch() -> Result<Loopback> {
        let what = || "take connections to 127.0.0.1".to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).attempt(what)?;
        listener.set_nonblocking(true).attempt(what)?;
        let place = sys::hold(listener.as_fd()).attempt(what)?;
        let program = sys::load(&program(place.as_raw_fd())).attempt(what)?;
        let namespace = File::open("/proc/thread-self/ns/net").attempt(what)?;
        let link = sys::attach(program.as_fd(), namespace.as_fd()).attempt(what)?;
        Ok(Loopback { listener, _link: link })
    }

    /// Its connections have the port that was asked for as their own.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

/// An instruction: what, registers, offset, number.
fn step(code: u8, to: u8, from: u8, offset: i16, number: i32) -> [u8; 8] {
    let (offset, number) = (offset.to_ne_bytes(), number.to_ne_bytes());
    let registers = from << 4 | to;
    [
        code, registers, offset[0], offset[1], number[0], number[1], number[2], number[3],
    ]
}

/// Gives connections of TCP to 127.0.0.1 to the socket that `place` holds, and lets all others pass.
fn program(place: RawFd) -> Vec<[u8; 8]> {
    const LOAD: u8 = 0x61;
    const STORE: u8 = 0x62;
    const SET: u8 = 0xb7;
    const COPY: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const WIDE: u8 = 0x18;
    const IF_NOT: u8 = 0x55;
    const IF: u8 = 0x15;
    const CALL: u8 = 0x85;
    const RETURN: u8 = 0x95;
    // A map's descriptor in place of a number.
    const MAP: u8 = 1;
    // In the order of the network, as the kernel has it.
    let address = i32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    // From the step of this number to the last but one.
    let pass = |from: i16| 21 - from - 1;
    vec![
        /*  0 */ step(COPY, 6, 1, 0, 0),
        /*  1 */ step(LOAD, 2, 1, PROTOCOL, 0),
        /*  2 */ step(IF_NOT, 2, 0, pass(2), libc::IPPROTO_TCP),
        /*  3 */ step(LOAD, 2, 1, FAMILY, 0),
        /*  4 */ step(IF_NOT, 2, 0, pass(4), libc::AF_INET),
        /*  5 */ step(LOAD, 2, 1, LOCAL_IP4, 0),
        /*  6 */ step(IF_NOT, 2, 0, pass(6), address),
        // The key of the map's only place, on the stack.
        /*  7 */ step(STORE, 10, 0, -4, 0),
        /*  8 */ step(COPY, 2, 10, 0, 0),
        /*  9 */ step(ADD, 2, 0, 0, -4),
        /* 10 */ step(WIDE, 1, MAP, 0, place),
        /* 11 */ step(0, 0, 0, 0, 0),
        /* 12 */ step(CALL, 0, 0, 0, MAP_LOOKUP),
        /* 13 */ step(IF, 0, 0, pass(13), 0),
        /* 14 */ step(COPY, 7, 0, 0, 0),
        /* 15 */ step(COPY, 1, 6, 0, 0),
        /* 16 */ step(COPY, 2, 7, 0, 0),
        /* 17 */ step(SET, 3, 0, 0, 0),
        /* 18 */ step(CALL, 0, 0, 0, ASSIGN),
        /* 19 */ step(COPY, 1, 7, 0, 0),
        /* 20 */ step(CALL, 0, 0, 0, RELEASE),
        /* 21 */ step(SET, 0, 0, 0, 1),
        /* 22 */ step(RETURN, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a network namespace of its own, if this user may make one.
    fn apart(work: impl FnOnce() + Send + 'static) {
        let outcome = thread::spawn(move || {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("not tried: a network namespace: {e}");
                return;
            }
            let mut links = netlink::Socket::open().unwrap();
            let all = netlink::Link::all(&mut links).unwrap();
            let own = all.iter().find(|link| link.name == "lo").unwrap();
            netlink::Link::set_up(&mut links, own.index, true).unwrap();
            work();
        });
        outcome.join().unwrap();
    }

    #[test]
    fn connections_to_any_port_of_the_loopback_address_are_caught_and_no_others() {
        apart(|| {
            let other = TcpListener::bind("127.0.0.2:70").unwrap();
            let caught = Loopback::catch().unwrap();
            caught.listener().set_nonblocking(false).unwrap();
            for port in [1_u16, 80, 65_535] {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let mut client = TcpStream::connect(address).unwrap();
                let (mut served, _) = caught.listener().accept().unwrap();
                assert_eq!(served.local_addr().unwrap(), address);
                client.write_all(b"ask").unwrap();
                let mut said = [0; 3];
                served.read_exact(&mut said).unwrap();
                assert_eq!(&said, b"ask");
            }
            TcpStream::connect("127.0.0.2:70").unwrap();
            other.accept().unwrap();
            drop(caught);
            TcpStream::connect("127.0.0.1:80").unwrap_err();
        });
    }
}
