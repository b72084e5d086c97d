// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How rtnetlink writes: a header, a fixed part that depends on the kind, attributes that are padded to four bytes. Pure.

use std::net::IpAddr;

/// `nlmsghdr`: length, kind, flags, sequence, port.
pub const HEADER: usize = 16;
/// Bits of an attribute's kind that are not its number.
const NUMBER: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// A request in the making; lengths are filled in as it grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A request of `kind` (`RTM_*`) with `flags` besides `NLM_F_REQUEST`; `fixed` is the part before the attributes.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Message {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Message(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Message {
        attribute(&mut self.0, kind, value);
        self
    }

    /// Adds an attribute that holds a number.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Message {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that holds an address, if there is one.
    #[must_use]
    pub fn ip(self, kind: u16, value: Option<IpAddr>) -> Message {
        match value {
            Some(IpAddr::V4(ip)) => self.with(kind, &ip.octets()),
            Some(IpAddr::V6(ip)) => self.with(kind, &ip.octets()),
            None => self,
        }
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let inner = fill(Message(Vec::new()));
        attribute(&mut self.0, kind | NESTED, &inner.0);
        self
    }

    /// As it goes to the kernel.
    pub fn bytes(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names and addresses: never near the limit.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// All behind the header.
    pub body: &'a [u8],
}

/// The messages of a datagram, up to the first that is none.
pub fn received(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `0`, up to the first that is none.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NUMBER;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of `kind`.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.by_ref().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A number.
    pub fn number(self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|value| u32_at(value, 0))
    }

    /// An address.
    pub fn ip(self, kind: u16) -> Option<IpAddr> {
        self.find(kind).and_then(ip)
    }

    /// A hardware address of six bytes.
    pub fn mac(self, kind: u16) -> Option<crate::Mac> {
        self.find(kind).and_then(|value| value.try_into().ok())
    }

    /// A text that ends with NUL.
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let text = value.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// An address by its length.
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

/// `AF_INET` or `AF_INET6`, as one byte.
pub fn family(ip: IpAddr) -> u8 {
    let family = match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let message = Message::new(16, libc::NLM_F_ACK, &[7; 16])
            .with(3, b"eth0\0")
            .number(4, 1500)
            .ip(5, Some("fd00::1".parse().unwrap()))
            .ip(6, None)
            .nest(7, |inner| inner.with(1, &[1]).number(2, 5));
        let bytes = message.bytes(9);
        let all: Vec<Received<'_>> = received(&bytes).collect();
        assert_eq!(all.len(), 1);
        let message = all[0];
        assert_eq!((message.kind, message.flags, message.sequence), (16, 5, 9));
        let attributes = Attributes(&message.body[16..]);
        assert_eq!(attributes.text(3).unwrap(), "eth0");
        assert_eq!(attributes.number(4), Some(1500));
        assert_eq!(attributes.ip(5), Some("fd00::1".parse().unwrap()));
        assert_eq!(attributes.find(6), None);
        let inner = Attributes(attributes.find(7).unwrap());
        assert_eq!((inner.find(1).unwrap(), inner.number(2)), (&[1][..], Some(5)));
    }

    #[test]
    fn what_is_cut_off_ends_quietly() {
        let bytes = Message::new(16, 0, &[0; 16]).with(3, b"name\0").bytes(1);
        for length in 0..bytes.len() {
            assert_eq!(received(&bytes[..length]).count(), 0, "{length} bytes");
            Attributes(&bytes[..length]).count();
        }
        // Lengths that are smaller than their own headers.
        assert_eq!(received(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
