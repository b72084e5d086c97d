// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What fanotify tells, read from its bytes. Pure; the bytes are the kernel's, their names any user's.

use api::agent::change;

/// Bytes of a record before what it tells of files.
const METADATA: usize = 24;
/// Bytes before a file's identity.
const HEADER: usize = 4;
/// Of a file system.
const FSID: usize = 8;
/// A file; a directory, and a name in it.
const FID: u8 = libc::FAN_EVENT_INFO_TYPE_FID;
const DFID_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;

/// One of them.
#[derive(Debug)]
pub struct Record<'a> {
    mask: u64,
    /// Who did it.
    pub pid: i32,
    /// What it tells of files.
    places: &'a [u8],
}

/// All that are whole.
pub fn all(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(rest, 0)?).ok()?;
        let record = rest.get(..len).filter(|record| record.len() >= METADATA)?;
        rest = rest.get(len..)?;
        Some(Record {
            mask: u64::from_ne_bytes(array(record, 8)?),
            pid: i32::from_ne_bytes(array(record, 20)?),
            places: record.get(METADATA..)?,
        })
    })
}

impl Record<'_> {
    /// The kernel has lost some.
    pub fn overflow(&self) -> bool {
        self.mask & libc::FAN_Q_OVERFLOW != 0
    }

    /// What became of the file. Several changes can be in one record.
    pub fn kind(&self) -> Option<change::Kind> {
        let has = |bits: u64| self.mask & bits != 0;
        if has(libc::FAN_MODIFY | libc::FAN_CREATE | libc::FAN_MOVED_TO) {
            Some(change::Kind::CONTENT)
        } else if has(libc::FAN_DELETE | libc::FAN_MOVED_FROM) {
            Some(change::Kind::GONE)
        } else if has(libc::FAN_ATTRIB) {
            Some(change::Kind::ATTRIBUTES)
        } else {
            None
        }
    }

    /// The identities of the files that it is about, each with the name in it, empty for itself.
    pub fn places(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.places;
        std::iter::from_fn(move || {
            loop {
                let kind = *rest.first()?;
                let len = usize::from(u16::from_ne_bytes(array(rest, 2)?));
                let place = rest.get(HEADER..len)?;
                rest = rest.get(len..)?;
                let handle = usize::try_from(u32_at(place, FSID)?).ok()?;
                // The length and the kind of the handle, then itself.
                let end = handle.checked_add(FSID + 8)?;
                let identity = place.get(..end)?;
                let name = place.get(end..)?.split(|byte| *byte == 0).next().unwrap_or_default();
                match kind {
                    FID => return Some((identity, &[][..])),
                    DFID_NAME if name == b"." => return Some((identity, &[][..])),
                    DFID_NAME => return Some((identity, name)),
                    _ => {}
                }
            }
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let body = [
            &[7; FSID][..],
            &u32::try_from(handle.len()).unwrap().to_ne_bytes(),
            &[1, 0, 0, 0],
            handle,
            name,
        ]
        .concat();
        let len = u16::try_from(HEADER + body.len()).unwrap();
        [&[kind, 0], &len.to_ne_bytes()[..], &body].concat()
    }

    fn record(mask: u64, pid: i32, places: &[u8]) -> Vec<u8> {
        let len = u32::try_from(METADATA + places.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &[3, 0, 24, 0], &mask.to_ne_bytes(), &[0xff; 4]].concat();
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(places);
        bytes
    }

    #[test]
    fn records_say_who_what_and_where() {
        let places = [place(DFID_NAME, &[1, 2], b"name\0\0\0"), place(FID, &[3], b"")].concat();
        let bytes = [
            record(libc::FAN_MODIFY, 9, &places),
            record(libc::FAN_DELETE, 8, &place(DFID_NAME, &[1, 2], b".\0")),
            record(libc::FAN_Q_OVERFLOW, 0, &[]),
        ];
        let bytes = bytes.concat();
        let records: Vec<_> = all(&bytes).collect();
        assert_eq!(records.len(), 3);
        assert_eq!((records[0].pid, records[0].kind()), (9, Some(change::Kind::CONTENT)));
        let places: Vec<_> = records[0].places().collect();
        assert_eq!((places[0].1, places[1].1), (&b"name"[..], &b""[..]));
        assert_eq!(places[0].0[FSID + 8..], [1, 2]);
        assert_eq!(records[1].kind(), Some(change::Kind::GONE));
        assert_eq!(records[1].places().next().unwrap().1, b"");
        assert!(records[2].overflow() && records[2].kind().is_none());
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = record(libc::FAN_MODIFY, 9, &place(DFID_NAME, &[1, 2], b"name\0"));
        for len in 0..whole.len() {
            assert_eq!(all(&whole[..len]).count(), 0);
        }
        let mut wrong = whole.clone();
        wrong[METADATA + HEADER + FSID] = 0xff;
        let records: Vec<_> = all(&wrong).collect();
        assert_eq!(records[0].places().count(), 0);
        let mut endless = whole;
        endless[METADATA + 2] = 0;
        assert!(all(&endless).next().unwrap().places().next().is_none());
    }
}
