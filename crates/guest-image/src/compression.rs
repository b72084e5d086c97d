// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Expands what kernels, modules and packages are compressed with. It knows formats by their magic, not by
//! file names, and never writes more than it was allowed to.

use std::io::Read;

use base::{Context, Error, Kind, Result};
use xz2::stream::{Action, Status, Stream};

use crate::field::u32_at;

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// The .xz container.
    Xz,
    /// The old .lzma container.
    Lzma,
    /// RFC 8878.
    Zstd,
    /// The "legacy" LZ4 frame, which the kernel's build uses.
    Lz4Legacy,
    /// Known, but not supported: no distribution kernel uses it.
    Bzip2,
    /// Known, but not supported: no distribution kernel uses it.
    Lzo,
}

const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// Largest block of a legacy LZ4 frame, expanded.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

impl Format {
    /// The format that `bytes` start with; `None` if they are not compressed in a way that we know.
    pub fn of(bytes: &[u8]) -> Option<Format> {
        match bytes {
            [0x1f, 0x8b, 8, ..] => Some(Format::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
            [0x5d, 0, 0, ..] => Some(Format::Lzma),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Format::Lz4Legacy),
            [b'B', b'Z', b'h', ..] => Some(Format::Bzip2),
            [0x89, b'L', b'Z', b'O', ..] => Some(Format::Lzo),
            _ => None,
        }
    }
}

/// The content of the one stream that `bytes` start with; bytes after it are ignored. [`Kind::Invalid`] if the
/// stream is broken or expands to more than `limit` bytes.
pub fn expand(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    let format = Format::of(bytes).ok_or_else(|| Error::new(Kind::Invalid, "not in a known compression format"))?;
    match format {
        Format::Gzip => drain(flate2::bufread::GzDecoder::new(bytes), format, limit),
        Format::Xz => lzma(bytes, Stream::new_stream_decoder(u64::MAX, 0), limit),
        Format::Lzma => lzma(bytes, Stream::new_lzma_decoder(u64::MAX), limit),
        Format::Zstd => {
            let decoder =
                zstd::Decoder::with_buffer(bytes).context(Kind::Invalid, || "start the zstd decoder".into())?;
            drain(decoder.single_frame(), format, limit)
        }
        Format::Lz4Legacy => lz4_legacy(bytes, limit),
        Format::Bzip2 | Format::Lzo => Err(Error::new(
            Kind::Unsupported,
            format!("{format:?} compression is not supported (gzip, xz, lzma, zstd and lz4 are)"),
        )),
    }
}

fn drain(decoder: impl Read, format: Format, limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(bound)
        .read_to_end(&mut content)
        .context(Kind::Invalid, || format!("expand {format:?} data"))?;
    if content.len() > limit {
        return Err(too_large(limit));
    }
    Ok(content)
}

/// One xz or lzma stream. The crate's reader takes bytes after the stream for damage, hence this loop.
fn lzma(bytes: &[u8], stream: Result<Stream, xz2::stream::Error>, limit: usize) -> Result<Vec<u8>> {
    let mut stream = stream.context(Kind::Invalid, || "start the xz decoder".into())?;
    let mut content = Vec::new();
    let mut rest = bytes;
    loop {
        content.reserve(1 << 20);
        let (taken, given) = (stream.total_in(), content.len());
        let status = stream
            .process_vec(rest, &mut content, Action::Finish)
            .context(Kind::Invalid, || "expand xz data".into())?;
        if content.len() > limit {
            return Err(too_large(limit));
        }
        if status == Status::StreamEnd {
            return Ok(content);
        }
        let taken = usize::try_from(stream.total_in() - taken).unwrap_or(usize::MAX);
        rest = rest.get(taken..).unwrap_or_default();
        if rest.is_empty() && content.len() == given {
            return Err(Error::new(Kind::Invalid, "xz data is cut off"));
        }
    }
}

/// A magic, then blocks of `u32 size, data`, each of 8 MiB expanded but the last. The kernel's build appends the
/// expanded length, which is no block: it ends the frame, as anything does that cannot be one.
fn lz4_legacy(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    let mut at = 4_usize;
    let mut last = LZ4_LEGACY_BLOCK;
    while last == LZ4_LEGACY_BLOCK
        && let Some(size) = u32_at(bytes, u64::try_from(at).unwrap_or(u64::MAX))
    {
        at += 4;
        if size == LZ4_LEGACY_MAGIC {
            continue;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(data) = at.checked_add(size).and_then(|end| bytes.get(at..end)) else {
            // The appended length of a kernel that ends on a block's edge.
            if at == bytes.len() && !content.is_empty() {
                break;
            }
            return Err(Error::new(Kind::Invalid, format!("lz4 block at byte {at} is cut off")));
        };
        at += size;
        last = lz4_flex::block::decompress_into(data, &mut block)
            .context(Kind::Invalid, || format!("expand the lz4 block that ends at byte {at}"))?;
        if content.len() + last > limit {
            return Err(too_large(limit));
        }
        content.extend_from_slice(&block[..last]);
    }
    Ok(content)
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::Invalid, format!("expands to more than {} MiB", limit >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sample() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        for block in content.chunks(LZ4_LEGACY_BLOCK) {
            let data = lz4_flex::block::compress(block);
            frame.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            frame.extend(data);
        }
        frame
    }

    #[test]
    fn every_format_expands_and_ignores_what_follows() {
        let content = sample();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&content).unwrap();
        let options = xz2::stream::LzmaOptions::new_preset(0).unwrap();
        let stream = Stream::new_lzma_encoder(&options).unwrap();
        let mut lzma = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&content).unwrap();
        for mut frame in [
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            lzma.finish().unwrap(),
            zstd::encode_all(&content[..], 1).unwrap(),
            lz4(&content),
        ] {
            let format = Format::of(&frame).unwrap();
            frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
            assert!(expand(&frame, content.len()).unwrap() == content, "{format:?}");
            assert_eq!(
                expand(&frame, content.len() - 1).unwrap_err().kind(),
                Kind::Invalid,
                "{format:?}"
            );
            assert!(expand(&frame[..frame.len() / 2], content.len()).is_err(), "{format:?}");
        }
    }

    #[test]
    fn an_lz4_frame_may_end_on_the_edge_of_a_block() {
        let content = vec![7; LZ4_LEGACY_BLOCK];
        let mut frame = lz4(&content);
        frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        assert!(expand(&frame, content.len()).unwrap() == content);
        let two = [content.clone(), vec![8; 10]].concat();
        assert!(expand(&lz4(&two), two.len()).unwrap() == two);
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert_eq!(expand(b"plain", 10).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(expand(b"BZh91AY", 10).unwrap_err().kind(), Kind::Unsupported);
    }
}
