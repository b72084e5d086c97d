// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Tests of reading archives: every kind of entry, hostile headers, long names, sparse files.

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header
}

fn member(archive: &mut Vec<u8>, mut header: Header, path: &str, data: &[u8]) {
    if !path.is_empty() {
        header.set_path(path).unwrap();
    }
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn records(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in pairs {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        all.extend_from_slice(format!("{length} {key}=").as_bytes());
        all.extend_from_slice(value);
        all.push(b'\n');
    }
    all
}

fn pax(archive: &mut Vec<u8>, pairs: &[(&str, &[u8])]) {
    let data = records(pairs);
    member(archive, header(EntryType::XHeader, data.len() as u64), "pax", &data);
}

fn content<R: Read>(entries: &mut Entries<R>, size: u64) -> io::Result<Vec<u8>> {
    let mut all = vec![0; usize::try_from(size).unwrap()];
    let mut buffer = [0; 700];
    while let Some((at, n)) = entries.read(&mut buffer)? {
        let at = usize::try_from(at).unwrap();
        all[at..at + n].copy_from_slice(&buffer[..n]);
    }
    Ok(all)
}

fn all(archive: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut entries = Entries::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = entries.advance()? {
        let bytes = content(&mut entries, entry.size)?;
        found.push((entry, bytes));
    }
    Ok(found)
}

#[test]
fn long_names_and_attributes_come_from_pax_and_gnu_headers() {
    let long = "d/".repeat(200) + "name";
    let mut archive = Vec::new();
    let value = b"a\nb=c\0".as_slice();
    pax(
        &mut archive,
        &[
            ("path", long.as_bytes()),
            ("mtime", b"-1.5"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.security.capability", value),
            ("SCHILY.xattr.user.x", b"old"),
            ("SCHILY.xattr.user.x", b"new"),
        ],
    );
    member(&mut archive, header(EntryType::Regular, 3), "short", b"abc");
    let name = [long.as_bytes(), b"\0"].concat();
    member(
        &mut archive,
        header(EntryType::GNULongName, name.len() as u64),
        "././@LongLink",
        &name,
    );
    member(&mut archive, header(EntryType::Symlink, 0), "short", b"");
    member(&mut archive, header(EntryType::Regular, 2), "last", b"xy");
    let found = all(&archive).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].0.path, long.as_bytes());
    assert_eq!(found[0].0.mtime, (-2, 500_000_000));
    assert_eq!((found[0].0.uid, found[0].0.gid), (3_000_000, 2));
    let xattrs = [("security.capability", value), ("user.x", b"new")];
    let xattrs = xattrs.map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
    assert_eq!(found[0].0.xattrs, xattrs);
    assert_eq!(found[0].1, b"abc");
    assert_eq!(found[1].0.path, long.as_bytes());
    assert_eq!(found[1].0.kind, Kind::Symlink(Vec::new()));
    assert_eq!(
        (found[2].0.path.as_slice(), found[2].1.as_slice()),
        (&b"last"[..], &b"xy"[..])
    );
    assert_eq!(found[2].0.mtime, (3, 0));
}

#[test]
fn all_sparse_formats_give_the_same_file() {
    let mut whole = vec![0; 8192];
    whole[1024..1536].fill(7);
    whole[6144..6656].fill(9);
    let data = [[7; 512], [9; 512]].concat();
    let size: &[u8] = b"8192";
    let mut archive = Vec::new();

    let mut gnu = header(EntryType::GNUSparse, 1024);
    let fields = gnu.as_gnu_mut().unwrap();
    for (field, offset) in fields.sparse.iter_mut().zip([1024, 6144]) {
        field.offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
        field.numbytes.copy_from_slice(b"00000001000\0");
    }
    fields.realsize.copy_from_slice(format!("{:011o}\0", 8192).as_bytes());
    member(&mut archive, gnu, "gnu", &data);

    pax(
        &mut archive,
        &[
            ("GNU.sparse.size", size),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"1024"),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", b"6144"),
            ("GNU.sparse.numbytes", b"512"),
        ],
    );
    member(&mut archive, header(EntryType::Regular, 1024), "v0.0", &data);
    pax(
        &mut archive,
        &[("GNU.sparse.size", size), ("GNU.sparse.map", b"1024,512,6144,512")],
    );
    member(&mut archive, header(EntryType::Regular, 1024), "v0.1", &data);
    pax(
        &mut archive,
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"v1.0"),
            ("GNU.sparse.realsize", size),
        ],
    );
    let mut map = b"2\n1024\n512\n6144\n512\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(&data);
    member(
        &mut archive,
        header(EntryType::Regular, 1536),
        "GNUSparseFile.0/v1.0",
        &map,
    );
    member(&mut archive, header(EntryType::Regular, 1), "after", b"z");

    let found = all(&archive).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|(entry, _)| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    assert_eq!(names, ["gnu", "v0.0", "v0.1", "v1.0", "after"]);
    for (entry, bytes) in &found[..4] {
        assert_eq!(entry.size, 8192, "{entry:?}");
        assert!(*bytes == whole, "{entry:?}");
    }
    assert_eq!(found[4].1, b"z");
}

#[test]
fn what_would_fill_memory_or_makes_no_sense_is_refused() {
    let refused = |archive: &[u8]| all(archive).unwrap_err().to_string();
    let mut huge = Vec::new();
    member(
        &mut huge,
        header(EntryType::GNULongName, 8 << 30),
        "././@LongLink",
        b"x",
    );
    assert!(refused(&huge).contains("extended header of 8589934592 bytes"));

    let mut cut = Vec::new();
    member(&mut cut, header(EntryType::Regular, 2000), "cut", &[1; 512]);
    assert!(refused(&cut).contains("ends within"));
    assert!(refused(&cut[..100]).contains("ends within"));

    let mut wrong = Vec::new();
    member(&mut wrong, header(EntryType::Regular, 0), "x", b"");
    wrong[0] = b'y';
    assert!(refused(&wrong).contains("checksum"));

    for map in ["1024,512,100,512", "0,4096,8000,512", "0", "1,2,3", "0,512"] {
        let mut bad = Vec::new();
        pax(
            &mut bad,
            &[("GNU.sparse.size", b"8192"), ("GNU.sparse.map", map.as_bytes())],
        );
        member(&mut bad, header(EntryType::Regular, 1024), "x", &[1; 1024]);
        assert!(refused(&bad).contains("sparse"), "{map}");
    }
    for record in [
        &b"99 path=x\n"[..],
        b"x",
        b"9 path=x\n\n",
        b"4 a\n",
        b"0 a=b\n",
        b"18446744073709551616 a=b\n",
    ] {
        let mut bad = Vec::new();
        member(&mut bad, header(EntryType::XHeader, record.len() as u64), "pax", record);
        assert!(refused(&bad).contains("record"), "{record:?}");
    }
    assert!(all(b"").unwrap().is_empty());
}
