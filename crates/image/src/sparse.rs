// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The maps of sparse files in tar archives: GNU's own header, and the three versions in pax headers.

use std::io::{self, Read};

use tar::GnuSparseHeader;

use crate::tarball::broken;

/// Most pieces that one file may have.
const PIECES: usize = 1 << 20;

/// Bytes that are there, at their place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Collects the map of a GNU header and of the blocks that continue it.
#[derive(Debug, Default)]
pub(crate) struct Map(Vec<Piece>);

impl Map {
    /// Takes the fields of one block; tells whether another block continues them.
    pub(crate) fn take(&mut self, fields: &[GnuSparseHeader], more: bool) -> io::Result<bool> {
        for field in fields.iter().filter(|field| !field.is_empty()) {
            if self.0.len() == PIECES {
                return Err(broken("a sparse file with too many pieces"));
            }
            self.0.push(Piece {
                offset: field.offset()?,
                length: field.length()?,
            });
        }
        Ok(more)
    }

    /// Takes a block that continues the map: 21 fields of 24 bytes and a mark.
    pub(crate) fn extend(&mut self, block: &[u8; 512]) -> io::Result<bool> {
        let mut next = tar::GnuExtSparseHeader::new();
        next.as_mut_bytes().copy_from_slice(block);
        self.take(next.sparse(), next.is_extended())
    }

    pub(crate) fn pieces(self) -> Vec<Piece> {
        self.0
    }
}

/// Version 0.1: `offset,length,offset,length,…`
pub(crate) fn from_text(map: &[u8]) -> io::Result<Vec<Piece>> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
    let numbers: Option<Vec<u64>> = map.split(|byte| *byte == b',').map(number).collect();
    let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0);
    Ok(pairs(&numbers.ok_or_else(|| broken("a sparse file's map"))?))
}

fn pairs(numbers: &[u64]) -> Vec<Piece> {
    let piece = |pair: &[u64]| Piece {
        offset: pair[0],
        length: pair[1],
    };
    numbers.chunks_exact(2).map(piece).collect()
}

/// Version 1.0: the map stands before the data, as decimal lines padded to whole blocks. Tells how many bytes
/// it took.
pub(crate) fn from_data(data: &mut impl Read) -> io::Result<(Vec<Piece>, u64)> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = None;
    let mut digits = 0;
    let mut current: u64 = 0;
    let mut taken = 0;
    loop {
        let mut block = [0; 512];
        data.read_exact(&mut block)
            .map_err(|_| broken("it ends within a sparse file's map"))?;
        taken += 512;
        for byte in block {
            match byte {
                b'0'..=b'9' if digits < 20 => {
                    digits += 1;
                    let next = current
                        .checked_mul(10)
                        .and_then(|n| n.checked_add(u64::from(byte - b'0')));
                    current = next.ok_or_else(|| broken("a sparse file's map"))?;
                }
                b'\n' if digits > 0 => {
                    match wanted {
                        None if current > PIECES as u64 => {
                            return Err(broken("a sparse file with too many pieces"));
                        }
                        None => wanted = Some(2 * current),
                        Some(_) => numbers.push(current),
                    }
                    (digits, current) = (0, 0);
                }
                _ => return Err(broken("a sparse file's map")),
            }
            if wanted == Some(numbers.len() as u64) {
                return Ok((pairs(&numbers), taken));
            }
        }
    }
}

/// In order, without overlap, within the file, and exactly the member's bytes.
pub(crate) fn check(pieces: &[Piece], stored: u64, size: u64) -> io::Result<()> {
    let mut end = 0;
    let mut sum: u64 = 0;
    for piece in pieces {
        let next = piece.offset.checked_add(piece.length);
        sum = sum.saturating_add(piece.length);
        match next {
            Some(next) if piece.offset >= end && next <= size => end = next,
            _ => return Err(broken("a sparse file's map")),
        }
    }
    if sum != stored {
        return Err(broken("a sparse file's map that does not fit its bytes"));
    }
    Ok(())
}
