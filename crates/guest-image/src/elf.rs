// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The little of ELF that we need: is this a kernel that boots through PVH, and what does a module say about
//! itself. Pure functions over bytes.

use base::{Error, Kind, Result};

use crate::field::{slice, u16_at, u32_at, u64_at};

const MACHINE_X86_64: u16 = 62;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen/include/public/elfnote.h): the physical address of the 32-bit entry point.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Whether `bytes` start like an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The physical address of the PVH entry of a kernel; [`Kind::Invalid`] if `bytes` are no x86-64 ELF file or have
/// no such entry.
pub fn pvh_entry(bytes: &[u8]) -> Result<u64> {
    segments(bytes, SEGMENT_NOTE)?
        .into_iter()
        .find_map(pvh_note)
        .ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "the kernel has no PVH entry (note 18 of Xen): it was built without CONFIG_PVH",
            )
        })
}

/// Checks that `bytes` are an x86-64 program that runs without any library.
pub fn check_static(bytes: &[u8]) -> Result<()> {
    if segments(bytes, SEGMENT_INTERPRETER)?.is_empty() {
        Ok(())
    } else {
        Err(Error::new(
            Kind::Invalid,
            "the program is dynamically linked, and the guest has no libraries",
        ))
    }
}

/// The contents of the segments of `kind` of an x86-64 ELF file.
fn segments(bytes: &[u8], kind: u32) -> Result<Vec<&[u8]>> {
    if !is_elf(bytes) || bytes.get(4) != Some(&2) || bytes.get(5) != Some(&1) {
        return Err(Error::new(Kind::Invalid, "not a 64-bit little-endian ELF file"));
    }
    if u16_at(bytes, 18) != Some(MACHINE_X86_64) {
        return Err(Error::new(Kind::Invalid, "an ELF file for another machine than x86-64"));
    }
    segment_contents(bytes, kind).ok_or_else(|| Error::new(Kind::Invalid, "an ELF file with broken program headers"))
}

fn segment_contents(bytes: &[u8], kind: u32) -> Option<Vec<&[u8]>> {
    let table = u64_at(bytes, 32)?;
    let size = u64::from(u16_at(bytes, 54)?);
    let count = u64::from(u16_at(bytes, 56)?);
    if size < 56 {
        return None;
    }
    let mut contents = Vec::new();
    for index in 0..count {
        let header = slice(bytes, table.checked_add(index.checked_mul(size)?)?, 56)?;
        if u32_at(header, 0)? == kind {
            contents.push(slice(bytes, u64_at(header, 8)?, u64_at(header, 32)?)?);
        }
    }
    Some(contents)
}

fn pvh_note(mut notes: &[u8]) -> Option<u64> {
    loop {
        let name_size = u64::from(u32_at(notes, 0)?);
        let size = u64::from(u32_at(notes, 4)?);
        let kind = u32_at(notes, 8)?;
        let content_at = 12 + name_size.next_multiple_of(4);
        if kind == NOTE_PHYS32_ENTRY && slice(notes, 12, name_size)? == b"Xen\0" {
            let content = slice(notes, content_at, size)?;
            return u64_at(content, 0).or_else(|| u32_at(content, 0).map(u64::from));
        }
        let next = usize::try_from(content_at + size.next_multiple_of(4)).ok()?;
        notes = notes.get(next..)?;
    }
}

/// What a kernel module says about itself in its `.modinfo` section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modinfo {
    /// Its name, with underscores.
    pub name: String,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules that should be loaded before it, if they exist.
    pub soft: Vec<String>,
    /// The kernel release that it was built for.
    pub release: String,
}

/// Reads the `.modinfo` section of an uncompressed module; `None` if `bytes` are no ELF file with such a section.
pub fn modinfo(bytes: &[u8]) -> Option<Modinfo> {
    if !is_elf(bytes) {
        return None;
    }
    let mut modinfo = Modinfo::default();
    for entry in section(bytes, b".modinfo")?.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(entry).ok().and_then(|entry| entry.split_once('=')) else {
            continue;
        };
        match key {
            "name" => modinfo.name = value.replace('-', "_"),
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                modinfo.depends.extend(names.map(|name| name.replace('-', "_")));
            }
            "softdep" => modinfo.soft.extend(before(value)),
            "vermagic" => modinfo.release = value.split(' ').next().unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    Some(modinfo)
}

/// The modules of `pre: a b post: c` that come before.
fn before(softdep: &str) -> Vec<String> {
    let mut pre = false;
    let mut names = Vec::new();
    for word in softdep.split_ascii_whitespace() {
        match word {
            "pre:" => pre = true,
            "post:" => pre = false,
            name if pre => names.push(name.replace('-', "_")),
            _ => {}
        }
    }
    names
}

fn section<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let table = u64_at(bytes, 40)?;
    let size = u64::from(u16_at(bytes, 58)?);
    let count = u64::from(u16_at(bytes, 60)?);
    let names_index = u64::from(u16_at(bytes, 62)?);
    let header = |index: u64| slice(bytes, table.checked_add(index.checked_mul(size)?)?, 64);
    let content = |header: &[u8]| Some((u64_at(header, 24)?, u64_at(header, 32)?));
    let (names_at, names_size) = content(header(names_index)?)?;
    let names = slice(bytes, names_at, names_size)?;
    for index in 0..count {
        let header = header(index)?;
        let name = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        if name.starts_with(wanted) && name.get(wanted.len()) == Some(&0) {
            let (at, size) = content(header)?;
            return slice(bytes, at, size);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A module with this `.modinfo`, as small as ELF allows.
    pub(crate) fn module(entries: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = entries
            .iter()
            .flat_map(|entry| [entry.as_bytes(), b"\0"].concat())
            .collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        let modinfo_at = elf.len() as u64;
        elf.extend(&modinfo);
        let names_at = elf.len() as u64;
        elf.extend(names);
        let table = elf.len() as u64;
        for (name, at, size) in [(0, 0, 0), (1, modinfo_at, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&u32::to_le_bytes(name));
            header[24..32].copy_from_slice(&at.to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf[40..48].copy_from_slice(&table.to_le_bytes());
        elf[58] = 64;
        elf[60] = 3;
        elf[62] = 2;
        elf
    }

    /// A kernel with one note segment.
    pub(crate) fn kernel(note: u32, name: &[u8; 4]) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 4;
        elf[72] = 120;
        let mut notes = Vec::new();
        // A note before it, whose content is no multiple of four.
        notes.extend([
            4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, b'G', b'N', b'U', 0, 1, 2, 3, 4, 5, 0, 0, 0,
        ]);
        notes.extend([4, 0, 0, 0, 8, 0, 0, 0]);
        notes.extend(note.to_le_bytes());
        notes.extend(name);
        notes.extend(0x0100_0000_u64.to_le_bytes());
        elf[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        elf.extend(notes);
        elf
    }

    #[test]
    fn the_pvh_entry_is_found_behind_other_notes() {
        assert_eq!(pvh_entry(&kernel(18, b"Xen\0")).unwrap(), 0x0100_0000);
        assert!(pvh_entry(&kernel(17, b"Xen\0")).unwrap_err().chain().contains("PVH"));
        assert!(pvh_entry(&kernel(18, b"Abc\0")).is_err());
        assert!(pvh_entry(b"\x7fELF").is_err());
        let mut other = kernel(18, b"Xen\0");
        other[18] = 183;
        assert!(pvh_entry(&other).unwrap_err().chain().contains("x86-64"));
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let mut elf = kernel(18, b"Xen\0");
        check_static(&elf).unwrap();
        elf[64] = 3;
        assert!(check_static(&elf).unwrap_err().chain().contains("dynamically"));
        assert!(check_static(b"#!/bin/sh").is_err());
    }

    #[test]
    fn cut_files_and_wild_offsets_are_refused() {
        let whole = kernel(18, b"Xen\0");
        for end in 0..whole.len() {
            assert!(pvh_entry(&whole[..end]).is_err(), "{end}");
        }
        let mut wild = whole;
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(pvh_entry(&wild).is_err());
        let module = module(&["name=a"]);
        for end in 0..module.len() {
            assert_eq!(modinfo(&module[..end]), None, "{end}");
        }
    }

    #[test]
    fn modinfo_tells_names_dependencies_and_release() {
        let bytes = module(&[
            "name=virtio-pci",
            "depends=virtio_ring,virtio",
            "softdep=pre: crc32c a-b post: z",
            "vermagic=6.1.0-50-cloud-amd64 SMP preempt",
        ]);
        let modinfo = modinfo(&bytes).unwrap();
        assert_eq!(modinfo.name, "virtio_pci");
        assert_eq!(modinfo.depends, ["virtio_ring", "virtio"]);
        assert_eq!(modinfo.soft, ["crc32c", "a_b"]);
        assert_eq!(modinfo.release, "6.1.0-50-cloud-amd64");
        assert!(super::modinfo(&module(&["depends="])).unwrap().depends.is_empty());
    }
}
