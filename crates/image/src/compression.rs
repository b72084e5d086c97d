// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a layer or an archive is packed with, told by its first bytes: media types are often wrong.

use std::io::{self, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use xz2::bufread::XzDecoder;

/// How the bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878, starting with a data frame or a skippable frame.
    Zstd,
    /// bzip2.
    Bzip2,
    /// The xz container (not bare lzma).
    Xz,
}

impl Compression {
    /// By the first bytes; six are enough.
    pub fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        }
    }
}

/// The unpacked bytes of `source`.
pub fn unpacked<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 * 1024, source);
    // A pipe or a socket may hand out one byte at first: fill what the decision needs.
    let mut start = Vec::with_capacity(6);
    source.by_ref().take(6).read_to_end(&mut start)?;
    let packing = Compression::of(&start);
    let source = io::Cursor::new(start).chain(source);
    Ok(match packing {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(source)?),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(source)),
        Compression::Xz => Box::new(XzDecoder::new_multi_decoder(source)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_packing_is_told_and_undone() {
        let text = b"layer ".repeat(10_000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).unwrap();
        for (packing, bytes) in [
            (Compression::None, text.clone()),
            (Compression::Gzip, gzip.finish().unwrap()),
            (Compression::Zstd, zstd::encode_all(&text[..], 1).unwrap()),
            (Compression::Xz, xz.finish().unwrap()),
            (Compression::Bzip2, bzip2.finish().unwrap()),
        ] {
            assert_eq!(Compression::of(&bytes), packing);
            let mut out = Vec::new();
            // Two members one after the other are one stream in all of them.
            unpacked(bytes.repeat(2).as_slice())
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, text.repeat(2), "{packing:?}");
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[7; 5000]).unwrap();
        let bytes = gzip.finish().unwrap();
        let cut = &bytes[..bytes.len() - 4];
        assert!(unpacked(cut).unwrap().read_to_end(&mut Vec::new()).is_err());
        assert!(unpacked(&b""[..]).unwrap().read_to_end(&mut Vec::new()).is_ok());
    }
}
