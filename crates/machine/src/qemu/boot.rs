// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The files that a guest boots from: opened by us, so that QEMU needs no right to any path, and looked at, so that what
//! cannot boot is refused with a reason instead of a silent guest.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::MachineSpec;

const MIB: u64 = 1 << 20;

/// A kernel and an initramfs that fit into the machine.
#[derive(Debug)]
pub struct Boot {
    kernel: File,
    initramfs: File,
}

impl Boot {
    /// Opens the files of `spec`. Errors: `NotFound` and the like, `Invalid` for a kernel that is no ELF file or for a machine
    /// that is too small.
    pub fn open(spec: &MachineSpec) -> Result<Boot> {
        let kernel = open(&spec.kernel, "kernel")?;
        let initramfs = open(&spec.initramfs, "initramfs")?;
        let end = kernel_end(&kernel, &spec.kernel)?;
        let size = initramfs
            .metadata()
            .attempt(|| format!("read initramfs {}", spec.initramfs.display()))?
            .len();
        if end.saturating_add(size) > spec.memory_mib.saturating_mul(MIB) {
            let what = format!(
                "{} MiB of memory do not hold kernel {} ({} MiB) and initramfs {} ({} MiB)",
                spec.memory_mib,
                spec.kernel.display(),
                end.div_ceil(MIB),
                spec.initramfs.display(),
                size.div_ceil(MIB)
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(Boot { kernel, initramfs })
    }

    /// The kernel's name in a process that inherits [`Boot::descriptors`].
    pub fn kernel(&self) -> PathBuf {
        inherited(&self.kernel)
    }

    /// The initramfs's name in such a process.
    pub fn initramfs(&self) -> PathBuf {
        inherited(&self.initramfs)
    }

    /// What the process must inherit.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.kernel.as_fd(), self.initramfs.as_fd()]
    }
}

fn inherited(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a file for a process that has no rights, and that opens it once more: one that not everybody may read is copied into
/// memory.
fn open(path: &Path, role: &str) -> Result<File> {
    let what = || format!("read {role} {}", path.display());
    let mut file = File::open(path).attempt(what)?;
    let found = file.metadata().attempt(what)?;
    if !found.is_file() {
        let what = format!("{role} {} is not a regular file", path.display());
        return Err(Error::new(Kind::Invalid, what));
    }
    if found.mode() & 0o004 != 0 {
        return Ok(file);
    }
    log::info!(
        "{role} {} is not readable for all: each machine keeps a copy in memory",
        path.display()
    );
    let mut copy = File::from(memfd_create(role, MFdFlags::MFD_CLOEXEC).attempt(what)?);
    std::io::copy(&mut file, &mut copy).attempt(what)?;
    Ok(copy)
}

/// Where the kernel ends in the guest's memory.
fn kernel_end(kernel: &File, path: &Path) -> Result<u64> {
    // The program headers of a kernel follow its file header at once.
    let mut head = vec![0; 4096];
    let read = kernel
        .read_at(&mut head, 0)
        .attempt(|| format!("read kernel {}", path.display()))?;
    head.truncate(read);
    load_end(&head).ok_or_else(|| {
        let what = format!("kernel {} is not an uncompressed x86-64 ELF kernel", path.display());
        Error::new(Kind::Invalid, what)
    })
}

/// The highest physical address that an ELF file's loadable segments reach; `head` is its beginning. `None` when it is not a
/// 64-bit x86 executable.
pub fn load_end(head: &[u8]) -> Option<u64> {
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    // ELF-64 object file format, figures 2 and 6: 64-bit class, least significant byte first.
    if !head.starts_with(b"\x7fELF\x02\x01") || half(head, 16)? != EXECUTABLE || half(head, 18)? != X86_64 {
        return None;
    }
    let table = usize::try_from(wide(head, 32)?).ok()?;
    let (size, count) = (usize::from(half(head, 54)?), usize::from(half(head, 56)?));
    let mut end = 0;
    for n in 0..count {
        let entry = head.get(table.checked_add(n.checked_mul(size)?)?..)?;
        if u32::from(half(entry, 0)?) == LOAD && half(entry, 2)? == 0 {
            end = end.max(wide(entry, 24)?.checked_add(wide(entry, 40)?)?);
        }
    }
    (end > 0).then_some(end)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// The head of an ELF kernel that loads 2 MiB at 16 MiB, for tests.
#[cfg(test)]
pub fn sample_kernel() -> Vec<u8> {
    let mut head = vec![0; 64 + 56];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01");
    put(16, &[2, 0, 62, 0]);
    put(32, &64_u64.to_le_bytes());
    put(54, &[56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0]);
    put(64 + 24, &(16 * MIB).to_le_bytes());
    put(64 + 40, &(2 * MIB).to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_end_of_a_kernel_is_its_highest_segment() {
        let kernel = sample_kernel();
        assert_eq!(load_end(&kernel), Some(18 * MIB));
        for length in 0..kernel.len() - 8 {
            assert_eq!(load_end(&kernel[..length]), None, "{length} bytes of it");
        }
        let mut other = kernel.clone();
        other[18] = 183;
        assert_eq!(load_end(&other), None, "another processor's");
        let mut huge = kernel;
        huge[64 + 24..64 + 32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(load_end(&huge), None, "overflow");
        assert_eq!(load_end(b"MZ bzImage"), None);
    }

    #[test]
    fn a_private_file_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = open(&path, "kernel").unwrap();
        assert_eq!(std::fs::read_to_string(inherited(&file)).unwrap(), "secret");
        assert_eq!(file.metadata().unwrap().mode() & 0o004, 0o004);
    }
}
