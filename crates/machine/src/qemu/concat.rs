// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Several files as one block device that is only read, without a device of the host in between: QEMU reads a list of flat extents, which is
//! a disk image of the format VMDK with its data elsewhere.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use base::{Context, Kind, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use serde_json::{Value, json};

use crate::DiskSpec;

/// Of VMDK, in bytes.
const SECTOR: u64 = 512;

/// The list, for QEMU to read, of files that it has as descriptor sets from `first` on. What is behind a file's end reads as zeros.
pub fn list(parts: &[BorrowedFd<'_>], first: u64) -> Result<OwnedFd> {
    let sizes = parts.iter().map(|part| {
        let size = fstat(part).attempt(|| "look at a part of it".into())?.st_size;
        u64::try_from(size).context(Kind::Invalid, || "a part of it has no size".into())
    });
    let text = text(&sizes.collect::<Result<Vec<_>>>()?, first);
    let what = || "list its parts".to_owned();
    let file = memfd_create("parts", MFdFlags::MFD_CLOEXEC).attempt(what)?;
    File::from(file.try_clone().attempt(what)?)
        .write_all(text.as_bytes())
        .attempt(what)?;
    // QEMU takes a descriptor only for what it is open for.
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).attempt(what)?;
    Ok(again.into())
}

fn text(sizes: &[u64], first: u64) -> String {
    let mut text =
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
            .to_owned();
    for (set, size) in (first..).zip(sizes) {
        let sectors = size.next_multiple_of(DiskSpec::ALIGNMENT) / SECTOR;
        let _ = writeln!(text, "RW {sectors} FLAT \"/dev/fdset/{set}\" 0");
    }
    text
}

/// The block device `name` whose list is `file`.
pub fn node(name: &str, file: &str) -> Value {
    json!({
        "driver": "vmdk", "node-name": name, "read-only": true,
        "file": { "driver": "file", "filename": file, "read-only": true, "locking": "off" },
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_part_is_an_extent_of_whole_blocks() {
        let extents: Vec<_> = text(&[4096, 5000, 1 << 40], 7)
            .lines()
            .skip(5)
            .map(str::to_owned)
            .collect();
        let expected = [
            "RW 8 FLAT \"/dev/fdset/7\" 0",
            "RW 16 FLAT \"/dev/fdset/8\" 0",
            "RW 2147483648 FLAT \"/dev/fdset/9\" 0",
        ];
        assert_eq!(extents, expected);
    }

    #[test]
    fn the_list_is_read_from_its_beginning() {
        let part = tempfile::tempfile().unwrap();
        let list = list(&[part.as_fd()], 1).unwrap();
        let mut read = String::new();
        File::from(list).read_to_string(&mut read).unwrap();
        assert_eq!(read, text(&[0], 1));
    }
}
