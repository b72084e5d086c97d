// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A streaming reader of tar archives as image builders write them: ustar, GNU and pax headers, long names,
//! extended attributes, nanosecond times, sparse files of all four kinds. Header fields are decoded by the
//! `tar` crate; the walk is ours because what describes an entry must be bounded before it is read into
//! memory, and pax values may hold newlines. It knows no file system.

use std::collections::VecDeque;
use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::sparse::{self, Piece};

/// Most bytes that a long name or a pax header may have.
const EXTENSION: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes come from [`Entries::read`].
    File,
    /// Another name of the file with this path in the archive.
    HardLink(Vec<u8>),
    /// A symbolic link with this content.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As written, not checked.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 0o7777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Bytes of the file, holes included; 0 for what is not a file.
    pub size: u64,
    /// Name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Walks an archive from its beginning to its end.
pub struct Entries<R> {
    input: R,
    /// Bytes of the current member that are still in the input, and its padding after them.
    rest: u64,
    padding: u64,
    /// Where the current file's bytes lie; empty when they lie one after the other.
    pieces: VecDeque<Piece>,
    /// Bytes taken from the input so far.
    position: u64,
    globals: Pax,
}

impl<R> std::fmt::Debug for Entries<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Says what is wrong with the archive.
pub(crate) fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("broken tar archive: {}", why.into()),
    )
}

impl<R: Read> Entries<R> {
    /// Starts at the input's next byte.
    pub fn new(input: R) -> Entries<R> {
        Entries {
            input,
            rest: 0,
            padding: 0,
            pieces: VecDeque::new(),
            position: 0,
            globals: Pax::default(),
        }
    }

    /// Where in the input the next unread byte lies; after [`Entries::advance`], where the file's bytes begin.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The input, to read what follows the archive.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next member, skipping what is left of the current one; None at the end.
    pub fn advance(&mut self) -> io::Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut pax = Pax::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            if kind.is_gnu_longname() {
                long_path = Some(without_nul(self.extension(&header)?));
            } else if kind.is_gnu_longlink() {
                long_link = Some(without_nul(self.extension(&header)?));
            } else if kind.is_pax_global_extensions() {
                self.globals = Pax::parse(&self.extension(&header)?)?;
            } else if kind.is_pax_local_extensions() || kind.as_byte() == b'X' {
                pax = Pax::parse(&self.extension(&header)?)?;
            } else if kind.as_byte() == b'V' {
                self.rest = field(&header.as_old().size, header.entry_size())?;
                self.padding = padding(self.rest);
            } else {
                let pax = pax.over(&self.globals);
                return self.member(&header, pax, long_path, long_link).map(Some);
            }
        }
    }

    /// Bytes of the current file at `offset`: None at the end. A hole gives its place only by the next offset.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<Option<(u64, usize)>> {
        while let Some(piece) = self.pieces.front_mut() {
            if piece.length == 0 {
                self.pieces.pop_front();
                continue;
            }
            let most = usize::try_from(piece.length).unwrap_or(usize::MAX).min(buf.len());
            let n = self.input.read(&mut buf[..most])?;
            if n == 0 {
                return Err(broken("it ends within a file"));
            }
            let at = piece.offset;
            piece.offset += n as u64;
            piece.length -= n as u64;
            self.rest = self.rest.saturating_sub(n as u64);
            self.position += n as u64;
            return Ok(Some((at, n)));
        }
        Ok(None)
    }

    fn skip(&mut self) -> io::Result<()> {
        let amount = self.rest.saturating_add(self.padding);
        let skipped = io::copy(&mut self.input.by_ref().take(amount), &mut io::sink())?;
        self.position += skipped;
        // Some writers leave out the last member's padding.
        if skipped < self.rest {
            return Err(broken("it ends within a file"));
        }
        (self.rest, self.padding) = (0, 0);
        self.pieces.clear();
        Ok(())
    }

    /// A block, or None at the end of the input.
    fn block(&mut self) -> io::Result<Option<[u8; 512]>> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(broken("it ends within a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let expected = sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ');
        match header.cksum() {
            Ok(found) if found == expected => Ok(Some(header)),
            _ => Err(broken(format!(
                "wrong header checksum at byte {}",
                self.position - BLOCK
            ))),
        }
    }

    /// The content of a member that describes the next one.
    fn extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = field(&header.as_old().size, header.entry_size())?;
        if size > EXTENSION {
            return Err(broken(format!(
                "an extended header of {size} bytes, at most {EXTENSION} are allowed"
            )));
        }
        let mut content = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut content)?;
        self.position += content.len() as u64;
        if (content.len() as u64) < size {
            return Err(broken("it ends within an extended header"));
        }
        self.padding = padding(size);
        Ok(content)
    }

    fn member(
        &mut self,
        header: &Header,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let path = pax
            .take("path")
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            header
                .link_name_bytes()
                .map(|name| name.into_owned())
                .unwrap_or_default()
        };
        let mut link = pax.take("linkpath").or(long_link).unwrap_or_else(link);
        let device = || -> io::Result<(u32, u32)> {
            let (major, minor) = (header.device_major()?, header.device_minor()?);
            Ok((major.unwrap_or(0), minor.unwrap_or(0)))
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::HardLink(std::mem::take(&mut link)),
            EntryType::Symlink => Kind::Symlink(std::mem::take(&mut link)),
            EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(broken(format!(
                    "a member of unknown type {:?}",
                    char::from(other.as_byte())
                )));
            }
        };
        let number = |key, field: io::Result<u64>| match pax.number(key) {
            Some(number) => number,
            None => field,
        };
        let old = header.as_old();
        let mut entry = Entry {
            mode: field(&old.mode, header.mode().map(u64::from))
                .map(|mode| mode & 0o7777)
                .and_then(narrow("mode"))?,
            uid: number("uid", field(&old.uid, header.uid())).and_then(narrow("uid"))?,
            gid: number("gid", field(&old.gid, header.gid())).and_then(narrow("gid"))?,
            mtime: match pax.text("mtime") {
                Some(text) => time(text).ok_or_else(|| broken(format!("time {text:?}")))?,
                // Times before 1970 are negative, which the header's own field rarely can say.
                None => (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
            },
            size: 0,
            xattrs: Vec::new(),
            path,
            kind,
        };
        if entry.kind == Kind::File {
            // What is not a file has no bytes, whatever its header says.
            self.rest = number("size", field(&old.size, header.entry_size()))?;
            self.padding = padding(self.rest);
            self.file(header, &pax, &mut entry)?;
        }
        entry.xattrs = pax.xattrs();
        Ok(entry)
    }

    /// Finds out where a file's bytes lie.
    fn file(&mut self, header: &Header, pax: &Pax, entry: &mut Entry) -> io::Result<()> {
        let (pieces, size) = if header.entry_type() == EntryType::GNUSparse {
            let gnu = header
                .as_gnu()
                .ok_or_else(|| broken("a sparse file without a GNU header"))?;
            let mut map = sparse::Map::default();
            let mut more = map.take(&gnu.sparse, gnu.is_extended())?;
            while more {
                let block = self
                    .block()?
                    .ok_or_else(|| broken("it ends within a sparse file's map"))?;
                more = map.extend(&block)?;
            }
            (map.pieces(), gnu.real_size()?)
        } else if pax.text("GNU.sparse.major") == Some("1") {
            let before = self.position;
            let pieces = sparse::from_data(&mut self.input.by_ref().take(self.rest))?;
            self.position += pieces.1;
            self.rest = self.rest.saturating_sub(self.position - before);
            (pieces.0, pax.sparse_size()?)
        } else if let Some(pieces) = pax.sparse_map()? {
            (pieces, pax.sparse_size()?)
        } else {
            let whole = Piece {
                offset: 0,
                length: self.rest,
            };
            (vec![whole], self.rest)
        };
        sparse::check(&pieces, self.rest, size)?;
        if let Some(name) = pax.value("GNU.sparse.name") {
            entry.path = name.to_vec();
        }
        (self.pieces, entry.size) = (pieces.into(), size);
        Ok(())
    }
}

/// A number of the header; one that is left out is 0.
fn field(bytes: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if bytes.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    parsed.map_err(|e| broken(e.to_string()))
}

fn narrow(name: &str) -> impl Fn(u64) -> io::Result<u32> {
    move |number| u32::try_from(number).map_err(|_| broken(format!("the {name} does not fit 32 bits")))
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

/// `[-]seconds[.fraction]`
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

/// Records of a pax header in their order (POSIX.1-2001, "pax Header Block").
#[derive(Debug, Default, Clone)]
struct Pax(Vec<(Vec<u8>, Vec<u8>)>);

impl Pax {
    /// `<length> <key>=<value>\n`, the length counting all of it.
    fn parse(mut bytes: &[u8]) -> io::Result<Pax> {
        let wrong = || broken("an extended header record");
        let mut records = Vec::new();
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&bytes[..space])
                .ok()
                .and_then(|text| text.parse::<usize>().ok());
            let length = length
                .filter(|length| *length > space + 1 && *length <= bytes.len())
                .ok_or_else(wrong)?;
            let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            bytes = &bytes[length..];
        }
        Ok(Pax(records))
    }

    /// These records, and of `globals` those that they do not replace.
    fn over(self, globals: &Pax) -> Pax {
        let mut records = globals.0.clone();
        records.extend(self.0);
        Pax(records)
    }

    /// The last one wins.
    fn value(&self, key: &str) -> Option<&[u8]> {
        let record = self.0.iter().rev().find(|(name, _)| name == key.as_bytes());
        record.map(|(_, value)| value.as_slice())
    }

    fn take(&mut self, key: &str) -> Option<Vec<u8>> {
        self.value(key).filter(|value| !value.is_empty()).map(<[u8]>::to_vec)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, key: &str) -> Option<io::Result<u64>> {
        let value = self.value(key).filter(|value| !value.is_empty())?;
        let text = std::str::from_utf8(value).ok();
        Some(
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| broken(format!("{key} is not a number"))),
        )
    }

    fn xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in self.0 {
            let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            found.retain(|(earlier, _)| earlier != name);
            found.push((name.to_vec(), value));
        }
        found
    }

    fn sparse_size(&self) -> io::Result<u64> {
        let size = self
            .number("GNU.sparse.realsize")
            .or_else(|| self.number("GNU.sparse.size"));
        size.unwrap_or_else(|| Err(broken("a sparse file without its size")))
    }

    /// Versions 0.0 (pairs of records) and 0.1 (one record).
    fn sparse_map(&self) -> io::Result<Option<Vec<Piece>>> {
        if let Some(map) = self.value("GNU.sparse.map") {
            return sparse::from_text(map).map(Some);
        }
        let mut numbers = Vec::new();
        for (key, value) in &self.0 {
            if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
                numbers.push(value.as_slice());
            }
        }
        if numbers.is_empty() {
            return Ok(None);
        }
        sparse::from_text(&numbers.join(&b","[..])).map(Some)
    }
}

#[cfg(test)]
#[path = "tarball_test.rs"]
mod tests;
