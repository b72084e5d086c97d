// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `_IOW('T', 202, int)` of `linux/if_tun.h`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `_IOR('T', 210, unsigned int)`.
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;

/// Makes `tun`, which is `/dev/net/tun` just opened, one end of a new tap interface in the network namespace of this thread.
/// `pattern` names it, with `%d` for a number. Its packets come with offload headers. Returns its name.
pub fn make_tap(tun: &File, pattern: &str) -> io::Result<String> {
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // The last byte stays NUL.
    for (to, from) in name.iter_mut().take(libc::IFNAMSIZ - 1).zip(pattern.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).map_err(io::Error::other)?,
        },
    };
    // SAFETY: the request reads and writes the structure, which lives through the call.
    let rc = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    name_in(&request)
}

/// The name that the interface behind `tap` has now.
pub fn tap_name(tap: BorrowedFd<'_>) -> io::Result<String> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // SAFETY: the request writes the structure, which lives through the call.
    let rc = unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETIFF, &raw mut request) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    name_in(&request)
}

fn name_in(request: &libc::ifreq) -> io::Result<String> {
    let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// Commands of bpf(2), and what they are to make, by `linux/bpf.h`.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROGRAM_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_OF_SOCKETS: u32 = 15;
const PROGRAM_OF_LOOKUP: u32 = 30;
const ATTACH_TO_LOOKUP: u32 = 36;

/// bpf(2) with a command's argument, all of which is initialized.
fn bpf<T>(command: libc::c_int, argument: &T) -> io::Result<libc::c_long> {
    // SAFETY: the argument has the size that is told, and it and what it points at live through the call.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *argument, size_of::<T>()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rc)
}

fn made(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A map of one place that holds `socket`, for a program to find.
pub fn hold(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Map {
        kind: u32,
        key_size: u32,
        value_size: u32,
        places: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Element {
        map: u32,
        unused: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map = Map {
        kind: MAP_OF_SOCKETS,
        key_size: 4,
        value_size: 8,
        places: 1,
        flags: 0,
    };
    let map = made(bpf(MAP_CREATE, &map)?)?;
    let (key, value) = (0_u32, u64::from(socket.as_raw_fd().cast_unsigned()));
    let element = Element {
        map: map.as_raw_fd().cast_unsigned(),
        unused: 0,
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE, &element)?;
    Ok(map)
}

/// A program that says which socket a connection is for.
pub fn load(steps: &[[u8; 8]]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Program {
        kind: u32,
        count: u32,
        steps: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        place: u32,
    }
    let program = Program {
        kind: PROGRAM_OF_LOOKUP,
        count: u32::try_from(steps.len()).map_err(io::Error::other)?,
        steps: steps.as_ptr().addr() as u64,
        licence: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: *b"kata_loopback\0\0\0",
        interface: 0,
        place: ATTACH_TO_LOOKUP,
    };
    made(bpf(PROGRAM_LOAD, &program)?)
}

/// Has `program` asked in a network namespace, as long as what is returned is open.
pub fn attach(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        place: u32,
        flags: u32,
    }
    let link = Link {
        program: program.as_raw_fd().cast_unsigned(),
        target: namespace.as_raw_fd().cast_unsigned(),
        place: ATTACH_TO_LOOKUP,
        flags: 0,
    };
    made(bpf(LINK_CREATE, &link)?)
}
