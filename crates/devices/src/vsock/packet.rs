// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The packet's header (Virtio 1.2, section 5.10.6) and its way from and to descriptor chains.

use std::io::{Read, Write};

use virtio::Chain;
use virtio::queue::Served;

use super::muxer::Muxer;

/// Bytes of a header.
pub const LENGTH: usize = 44;
/// Most payload bytes of one packet that are taken or sent.
pub const MAX_PAYLOAD: usize = 64 << 10;

pub const OP_REQUEST: u16 = 1;
pub const OP_RESPONSE: u16 = 2;
pub const OP_RST: u16 = 3;
pub const OP_SHUTDOWN: u16 = 4;
pub const OP_RW: u16 = 5;
pub const OP_CREDIT_UPDATE: u16 = 6;
pub const OP_CREDIT_REQUEST: u16 = 7;
pub const TYPE_STREAM: u16 = 1;
/// The sender of a shutdown will receive, send no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
pub const SHUTDOWN_SEND: u32 = 2;
/// The host's context id.
pub const HOST: u64 = 2;

/// All fields, in the host's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    /// Every byte string of this length is a header.
    pub fn parse(bytes: &[u8; LENGTH]) -> Header {
        let mut at = 0;
        let mut next = |len: usize| {
            let mut word = [0; 8];
            word[..len].copy_from_slice(&bytes[at..at + len]);
            at += len;
            u64::from_le_bytes(word)
        };
        let low32 = |word: u64| (word & 0xffff_ffff) as u32;
        let low16 = |word: u64| (word & 0xffff) as u16;
        Header {
            src_cid: next(8),
            dst_cid: next(8),
            src_port: low32(next(4)),
            dst_port: low32(next(4)),
            len: low32(next(4)),
            kind: low16(next(2)),
            op: low16(next(2)),
            flags: low32(next(4)),
            buf_alloc: low32(next(4)),
            fwd_cnt: low32(next(4)),
        }
    }

    /// The inverse of [`Header::parse`].
    pub fn bytes(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        out
    }
}

/// Copies a packet out of the guest's chain (once: the guest may change it meanwhile) and gives it to the muxer. A chain that holds
/// no packet is ignored.
pub fn take(chain: Chain, muxer: &mut Muxer) {
    let mem = chain.memory().clone();
    let Ok(mut reader) = chain.reader(&mem) else { return };
    let mut bytes = [0; LENGTH];
    if reader.read_exact(&mut bytes).is_err() {
        return;
    }
    let header = Header::parse(&bytes);
    let len = usize::try_from(header.len).unwrap_or(usize::MAX);
    if len > MAX_PAYLOAD || len > reader.available_bytes() {
        muxer.refuse(&header);
        return;
    }
    let payload = muxer.scratch(len);
    if reader.read_exact(payload).is_ok() {
        muxer.packet(&header);
    }
}

/// Writes the muxer's next packet into the guest's chain.
pub fn fill(chain: Chain, muxer: &mut Muxer) -> Served {
    let mem = chain.memory().clone();
    let Ok(mut writer) = chain.writer(&mem) else {
        return Served::Used(0);
    };
    let Some(room) = writer.available_bytes().checked_sub(LENGTH) else {
        return Served::Used(0);
    };
    if room == 0 && muxer.wants_room() {
        return Served::Used(0);
    }
    let Some((header, payload)) = muxer.next_packet(room.min(MAX_PAYLOAD)) else {
        return Served::Back;
    };
    let written = writer
        .write_all(&header.bytes())
        .and_then(|()| writer.write_all(payload));
    let len = if written.is_ok() { LENGTH + payload.len() } else { 0 };
    Served::Used(u32::try_from(len).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let mut bytes = [0; LENGTH];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(n * 5).unwrap();
        }
        let header = Header::parse(&bytes);
        assert_eq!(header.bytes(), bytes);
        assert_eq!(header.src_cid, u64::from_le_bytes(bytes[..8].try_into().unwrap()));
        assert_eq!(header.fwd_cnt, u32::from_le_bytes(bytes[40..].try_into().unwrap()));
    }
}
