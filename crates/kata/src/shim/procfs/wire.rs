// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! FUSE as the kernel speaks it over `/dev/fuse` (`linux/fuse.h`, 7.23 and later), as far as a file system needs that only shows
//! things. Whole messages in native byte order; both sides are our own host.
//!
//! ```text
//! request  length:u32 opcode:u32 unique:u64 node:u64 uid:u32 gid:u32 pid:u32 _:u32 | body
//! reply    length:u32 -errno:i32 unique:u64 | body
//! ```

use nix::errno::Errno;

/// The kernel wants room for so much at least.
pub const BUFFER: usize = 16 << 10;
const HEADER: usize = 40;
/// What we speak: nothing is used that came later.
const VERSION: [u32; 2] = [7, 23];
/// Reads are passed on as they are made, for sizes are not known beforehand.
const DIRECT: u32 = 1;

/// What is asked, of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Init {
        major: u32,
        minor: u32,
    },
    Lookup(Vec<u8>),
    Attributes,
    Link,
    Open,
    OpenDirectory,
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    List {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Release {
        handle: u64,
    },
    FileSystem,
    /// Whoever waits for the answer to that request does not want it any more.
    Interrupt(u64),
    /// Takes no answer.
    Forget,
    Other,
}

/// One message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub unique: u64,
    pub node: u64,
    pub operation: Operation,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub node: u64,
    /// With the type.
    pub mode: u32,
    /// Of a device, as the kernel numbers them for user space.
    pub device: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_ne_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    Some(u64::from_ne_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// None for what is no request.
pub fn parse(bytes: &[u8]) -> Option<Request> {
    let (unique, node) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let body = bytes.get(HEADER..)?;
    let read = || Some((u64_at(body, 0)?, u64_at(body, 8)?, u32_at(body, 16)?));
    let operation = match u32_at(bytes, 4)? {
        1 => Operation::Lookup(body.split(|byte| *byte == 0).next()?.to_owned()),
        2 | 42 => Operation::Forget,
        3 => Operation::Attributes,
        5 => Operation::Link,
        14 => Operation::Open,
        15 => {
            let (handle, offset, size) = read()?;
            Operation::Read { handle, offset, size }
        }
        17 => Operation::FileSystem,
        18 | 29 => Operation::Release {
            handle: u64_at(body, 0)?,
        },
        26 => Operation::Init {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
        },
        27 => Operation::OpenDirectory,
        28 => {
            let (handle, offset, size) = read()?;
            Operation::List { handle, offset, size }
        }
        36 => Operation::Interrupt(u64_at(body, 0)?),
        _ => Operation::Other,
    };
    Some(Request {
        unique,
        node,
        operation,
    })
}

/// The answer to request `unique`.
pub fn reply(unique: u64, answer: Result<Vec<u8>, Errno>) -> Vec<u8> {
    let (errno, body) = match answer {
        Ok(body) => (0, body),
        Err(errno) => (-(errno as i32), Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(errno.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// Answers [`Operation::Init`]. Errors: `EPROTO` for kernels before 3.15.
pub fn init(major: u32, minor: u32) -> Result<Vec<u8>, Errno> {
    if major < VERSION[0] || (major == VERSION[0] && minor < VERSION[1]) {
        return Err(Errno::EPROTO);
    }
    let mut body = Vec::with_capacity(64);
    // Version; nothing read ahead; no flags.
    for word in [VERSION[0], VERSION[1], 0, 0] {
        body.extend(word.to_ne_bytes());
    }
    // Requests in the background and when there are too many: the kernel's own choice. Bytes of a write; nanoseconds.
    for word in [0, 4096, 1] {
        body.extend(u32::to_ne_bytes(word));
    }
    body.resize(64, 0);
    Ok(body)
}

/// Nothing is remembered by the kernel: the next look asks again.
pub fn entry(attributes: Attributes) -> Vec<u8> {
    let mut body = attributes.node.to_ne_bytes().to_vec();
    body.resize(40, 0);
    put(&mut body, attributes);
    body
}

/// As [`entry`], for [`Operation::Attributes`].
pub fn attributes(attributes: Attributes) -> Vec<u8> {
    let mut body = vec![0; 16];
    put(&mut body, attributes);
    body
}

fn put(body: &mut Vec<u8>, attributes: Attributes) {
    body.extend(attributes.node.to_ne_bytes());
    // Size and times.
    body.resize(body.len() + 52, 0);
    for word in [attributes.mode, 1, 0, 0, attributes.device, 4096, 0] {
        body.extend(word.to_ne_bytes());
    }
}

/// Answers an open.
pub fn opened(handle: u64) -> Vec<u8> {
    let mut body = handle.to_ne_bytes().to_vec();
    body.extend(DIRECT.to_ne_bytes());
    body.resize(16, 0);
    body
}

/// Answers [`Operation::FileSystem`]: nothing is free.
pub fn file_system() -> Vec<u8> {
    let mut body = vec![0; 40];
    for word in [4096, 255, 4096_u32] {
        body.extend(word.to_ne_bytes());
    }
    body.resize(80, 0);
    body
}

/// The entries from `offset` on that fit into `size` bytes.
pub fn list(entries: &[(String, Attributes)], offset: u64, size: u32) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let first = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    for (next, (name, attributes)) in (1_u64..).zip(entries).skip(first) {
        let Ok(length) = u32::try_from(name.len()) else {
            continue;
        };
        let whole = (24 + name.len()).next_multiple_of(8);
        if body.len() + whole > size {
            break;
        }
        let end = body.len() + whole;
        body.extend(attributes.node.to_ne_bytes());
        body.extend(next.to_ne_bytes());
        body.extend(length.to_ne_bytes());
        body.extend((attributes.mode >> 12).to_ne_bytes());
        body.extend(name.as_bytes());
        body.resize(end, 0);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = 0_u32.to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(9_u64.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_read_and_short_ones_refused() {
        let lookup = parse(&request(1, b"stat\0")).unwrap();
        assert_eq!((lookup.unique, lookup.node), (7, 9));
        assert_eq!(lookup.operation, Operation::Lookup(b"stat".to_vec()));
        let mut body = 3_u64.to_ne_bytes().to_vec();
        body.extend(5_u64.to_ne_bytes());
        body.extend(6_u32.to_ne_bytes());
        let whole = request(28, &body);
        let (handle, offset, size) = (3, 5, 6);
        assert_eq!(
            parse(&whole).unwrap().operation,
            Operation::List { handle, offset, size }
        );
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "{cut}");
        }
        assert_eq!(parse(&request(99, b"")).unwrap().operation, Operation::Other);
    }

    #[test]
    fn replies_have_the_sizes_that_the_kernel_wants() {
        let file = Attributes {
            node: 2,
            mode: 0o100_444,
            device: 0,
        };
        assert_eq!(init(7, 39).unwrap().len(), 64);
        assert_eq!(init(7, 22).unwrap_err(), Errno::EPROTO);
        assert_eq!(entry(file).len(), 128);
        assert_eq!(attributes(file).len(), 104);
        assert_eq!(opened(1).len(), 16);
        assert_eq!(file_system().len(), 80);
        assert_eq!(reply(1, Err(Errno::EIO))[4..8], (-5_i32).to_ne_bytes());
    }

    #[test]
    fn a_list_goes_on_where_it_stopped() {
        let file = |node| Attributes {
            node,
            mode: 0o100_444,
            device: 0,
        };
        let entries = [("a".to_owned(), file(1)), ("long name".to_owned(), file(2))];
        assert_eq!(list(&entries, 0, 4096).len(), 32 + 40);
        assert_eq!(list(&entries, 0, 71).len(), 32);
        assert_eq!(list(&entries, 1, 4096).len(), 40);
        assert!(list(&entries, 2, 4096).is_empty());
        assert!(list(&entries, u64::MAX, 4096).is_empty());
    }
}
