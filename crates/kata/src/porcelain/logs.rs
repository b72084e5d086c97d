// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata logs`: what a detached container has printed, and what it prints next.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};

use super::status::Status;
use super::{Failure, Here};

/// How often a growing file is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// How often its container is asked whether it lives.
const QUESTION: Duration = Duration::from_secs(1);
const BLOCK: usize = 64 << 10;

pub fn logs(here: &Here, name: &str, tail: Option<&str>, follow: bool) -> Result<u8, Failure> {
    let lines = match tail {
        None | Some("all") => None,
        Some(text) => Some(
            text.parse::<u64>()
                .context(Kind::Invalid, || format!("tail {text:?} is not a number"))?,
        ),
    };
    let (place, record) = here.records.known(name)?;
    if !record.logged {
        let what = format!("container {name} ran in the foreground, its output was not kept");
        return Err(Error::new(Kind::State, what).into());
    }
    let path = place.output();
    let tried = || format!("read {}", path.display());
    let mut file = match File::open(&path) {
        // It has not come so far.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.attempt(tried)?,
    };
    let start = lines.map_or(Ok(0), |lines| last(&mut file, lines)).attempt(tried)?;
    file.seek(SeekFrom::Start(start)).attempt(tried)?;
    let mut asked = Instant::now();
    let mut over = !follow;
    loop {
        if copy(&mut file)? && !over {
            continue;
        }
        if over {
            return Ok(0);
        }
        std::thread::sleep(GLANCE);
        if asked.elapsed() > QUESTION || place.ended().map_or(true, |ended| ended.is_some()) {
            // What it printed before is there by now: once more around.
            over = !place.path().exists() || Status::of(&place, Some(&record), &here.root)?.is_over();
            asked = Instant::now();
        }
    }
}

/// Everything up to the end of now; false when the reader has gone.
fn copy(file: &mut File) -> Result<bool> {
    let mut block = vec![0; BLOCK];
    let mut out = io::stdout().lock();
    let mut some = false;
    loop {
        let n = file.read(&mut block).attempt(|| "read the output".into())?;
        if n == 0 {
            break;
        }
        some = true;
        out.write_all(&block[..n])
            .attempt(|| "write to standard output".into())?;
    }
    out.flush().attempt(|| "write to standard output".into())?;
    Ok(some)
}

/// Where the last `lines` lines begin.
fn last(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; BLOCK];
    let (mut at, mut seen) = (end, 0);
    while at > 0 {
        let from = at.saturating_sub(BLOCK as u64);
        let length = usize::try_from(at - from).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block[..length])?;
        for (index, byte) in block[..length].iter().enumerate().rev() {
            let position = from + index as u64;
            // The newline at the very end ends the last line.
            if *byte == b'\n' && position + 1 != end {
                seen += 1;
                if seen == lines {
                    return Ok(position + 1);
                }
            }
        }
        at = from;
    }
    Ok(if lines == 0 { end } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let rest = |file: &mut File, lines| {
            let start = last(file, lines).unwrap();
            let mut text = String::new();
            file.seek(SeekFrom::Start(start)).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(rest(&mut file, 3), "");
        file.write_all(b"a\nb\n\nc\n").unwrap();
        for (lines, want) in [(0, ""), (1, "c\n"), (2, "\nc\n"), (3, "b\n\nc\n"), (9, "a\nb\n\nc\n")] {
            assert_eq!(rest(&mut file, lines), want, "{lines}");
        }
        file.write_all(b"no end").unwrap();
        assert_eq!(rest(&mut file, 1), "no end");
        file.write_all(&vec![b'x'; 3 * BLOCK]).unwrap();
        file.write_all(b"\nd").unwrap();
        assert_eq!(rest(&mut file, 1), "d");
        assert_eq!(rest(&mut file, 2).len(), 6 + 3 * BLOCK + 2);
    }
}
