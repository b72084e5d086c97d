// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The pages of a guest's memory that are not empty, and their way to and from a file that holds nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::os::unix::fs::FileExt;

use base::{Error, Kind, Result};
use crc32fast::Hasher;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

const PAGE: u64 = 4096;
const EMPTY: [u8; 4096] = [0; 4096];
/// Bytes that are moved at a time: few enough to stay in the processor's cache.
const CHUNK: usize = 256 << 10;

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes from the beginning of the memory.
    pub at: u64,
    /// In bytes.
    pub length: u64,
}

/// What is kept of a memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    runs: Vec<Run>,
    /// CRC-32 of their content: against accidents, and fast, for each start computes it.
    sum: u32,
}

/// As they are written: the check sum, then offset and length of each run.
pub fn bytes(pages: &Pages) -> Vec<u8> {
    let words = pages.runs.iter().flat_map(|run| [run.at, run.length]);
    let words = iter::once(pages.sum.into()).chain(words);
    words.flat_map(u64::to_le_bytes).collect()
}

/// The inverse of [`bytes`], for a memory of `size` bytes. Errors: `Invalid` when the runs are not in order and inside.
pub fn parse(bytes: &[u8], size: u64) -> Result<Pages> {
    let nonsense = || Error::new(Kind::Invalid, "the list of a template's pages makes no sense");
    let words: Vec<u64> = bytes
        .chunks(8)
        .map(|word| word.try_into().map(u64::from_le_bytes).map_err(|_| nonsense()))
        .collect::<Result<_>>()?;
    let (sum, words) = words.split_first().ok_or_else(nonsense)?;
    let mut free = 0;
    let run = |pair: &[u64]| match *pair {
        [at, length] if at >= free && at % PAGE == 0 && length > 0 && length % PAGE == 0 => {
            free = at.checked_add(length).filter(|end| *end <= size).ok_or_else(nonsense)?;
            Ok(Run { at, length })
        }
        _ => Err(nonsense()),
    };
    Ok(Pages {
        sum: u32::try_from(*sum).map_err(|_| nonsense())?,
        runs: words.chunks(2).map(run).collect::<Result<_>>()?,
    })
}

/// Writes what is not empty of `memory` to `to`, one after the other.
pub fn compress(memory: &File, mut to: &File) -> io::Result<Pages> {
    let mut runs: Vec<Run> = Vec::new();
    let mut sum = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let end = memory.metadata()?.len();
    let mut at = 0;
    while let Some((start, stop)) = data(memory, at, end)? {
        at = start;
        while at < stop {
            let length = usize::try_from(stop - at).unwrap_or(CHUNK).min(CHUNK);
            let read = chunk.get_mut(..length).unwrap_or_default();
            memory.read_exact_at(read, at)?;
            for page in read.chunks(EMPTY.len()) {
                if page != EMPTY.get(..page.len()).unwrap_or_default() {
                    to.write_all(page)?;
                    sum.update(page);
                    match runs.last_mut() {
                        Some(last) if last.at + last.length == at => last.length += PAGE,
                        _ => runs.push(Run { at, length: PAGE }),
                    }
                }
                at += PAGE;
            }
        }
    }
    let sum = sum.finalize();
    Ok(Pages { runs, sum })
}

/// The next range at or behind `at` that was ever written, from page to page.
fn data(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| -> io::Result<Option<u64>> {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        match lseek(file, at, whence) {
            Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
            Err(Errno::ENXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    };
    let Some(start) = seek(at, Whence::SeekData)? else {
        return Ok(None);
    };
    let stop = seek(start, Whence::SeekHole)?.unwrap_or(end);
    Ok(Some((start - start % PAGE, stop.next_multiple_of(PAGE).min(end))))
}

/// The inverse of [`compress`], into a memory that is empty. Errors: `from` is too short, or has another content; the
/// memory is of no use then.
pub fn expand(pages: &Pages, from: &File, memory: &File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut sum = Hasher::new();
    let mut read_at = 0;
    for run in &pages.runs {
        let mut done = 0;
        while done < run.length {
            let length = usize::try_from(run.length - done).unwrap_or(CHUNK).min(CHUNK);
            let part = chunk.get_mut(..length).unwrap_or_default();
            from.read_exact_at(part, read_at)?;
            sum.update(part);
            memory.write_all_at(part, run.at + done)?;
            done += part.len() as u64;
            read_at += part.len() as u64;
        }
    }
    if sum.finalize() == pages.sum {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_comes_back_without_its_holes_and_empty_pages() {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(64 << 20).unwrap();
        memory.write_all_at(&[7; 4096], 0).unwrap();
        memory.write_all_at(&[0; 8192], 4096).unwrap();
        memory.write_all_at(b"x", 5 * PAGE + 9).unwrap();
        memory.write_all_at(&vec![9; 3 * CHUNK], 32 << 20).unwrap();
        memory.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let packed = tempfile::tempfile().unwrap();
        let pages = compress(&memory, &packed).unwrap();
        let at: Vec<u64> = pages.runs.iter().map(|run| run.at).collect();
        assert_eq!(at, [0, 5 * PAGE, 32 << 20, (64 << 20) - PAGE]);
        assert_eq!(packed.metadata().unwrap().len(), 3 * PAGE + 3 * CHUNK as u64);
        assert_eq!(parse(&bytes(&pages), 64 << 20).unwrap(), pages);

        let copy = tempfile::tempfile().unwrap();
        copy.set_len(64 << 20).unwrap();
        expand(&pages, &packed, &copy).unwrap();
        let all = |file: &File| {
            let mut bytes = vec![0; 64 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(all(&memory) == all(&copy));
        packed.write_all_at(&[8], 5000).unwrap();
        assert!(expand(&pages, &packed, &copy).is_err(), "one byte is another");
        packed.set_len(4 * PAGE).unwrap();
        assert!(expand(&pages, &packed, &copy).is_err(), "too short");
        assert!(
            compress(&tempfile::tempfile().unwrap(), &packed)
                .unwrap()
                .runs
                .is_empty()
        );
    }

    #[test]
    fn runs_that_make_no_sense_are_refused() {
        let good = Run { at: PAGE, length: PAGE };
        let written = |runs: &[Run]| {
            bytes(&Pages {
                runs: runs.to_vec(),
                sum: 7,
            })
        };
        let list = |runs: &[Run]| parse(&written(runs), 8 * PAGE);
        assert!(
            list(&[
                good,
                Run {
                    at: 2 * PAGE,
                    length: 6 * PAGE
                }
            ])
            .is_ok()
        );
        for bad in [
            Run {
                at: 8 * PAGE,
                length: PAGE,
            },
            Run { at: PAGE, length: 0 },
            Run { at: 1, length: PAGE },
            Run { at: 0, length: 5 },
            Run {
                at: u64::MAX - PAGE + 1,
                length: PAGE,
            },
        ] {
            assert_eq!(list(&[bad]).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
        assert!(list(&[good, good]).is_err(), "twice");
        for length in (0..24).filter(|length| *length != 8) {
            assert!(parse(&written(&[good])[..length], 8 * PAGE).is_err(), "{length}");
        }
        let mut other = written(&[good]);
        other[4] = 1;
        assert!(parse(&other, 8 * PAGE).is_err(), "a sum of more than 32 bits");
    }
}
