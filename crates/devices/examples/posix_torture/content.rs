// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is in a file: reading, writing, mapping, locking, holes.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, Flock, FlockArg, OFlag, copy_file_range, fallocate, fcntl};
use nix::unistd::{Whence, lseek};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::child::{answers, child, range};
use crate::{Outcome, PAGE, both, refused};

pub fn pattern(len: usize) -> Vec<u8> {
    let byte = |n: usize| u8::try_from((n * 7 + n / 251) % 251).unwrap_or(0);
    (0..len).map(byte).collect()
}

pub fn read_and_write(dir: &Path) -> Outcome {
    let bytes = pattern(3 << 20);
    let mut file = both(&dir.join("f"))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    expect!(fs::read(dir.join("f"))? == bytes, "other bytes came back");
    let mut some = [0; 5000];
    file.read_exact_at(&mut some, 1_000_001)?;
    expect!(some[..] == bytes[1_000_001..1_005_001], "other bytes in the middle");
    file.write_all_at(b"here", 70_000)?;
    let mut four = [0; 4];
    File::open(dir.join("f"))?.read_exact_at(&mut four, 70_000)?;
    expect!(&four == b"here", "an overwrite is not seen");
    expect!(file.read(&mut some)? == 0, "bytes after the end");
    Ok(())
}

pub fn truncate_and_extend(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, pattern(10_000))?;
    let file = both(&path)?;
    file.set_len(100)?;
    file.set_len(9000)?;
    let bytes = fs::read(&path)?;
    expect!(bytes[..100] == pattern(100)[..], "the start has changed");
    expect!(
        bytes.len() == 9000 && bytes[100..].iter().all(|b| *b == 0),
        "what was cut off is back"
    );
    File::create(&path)?;
    expect!(fs::metadata(&path)?.len() == 0, "O_TRUNC leaves bytes");
    Ok(())
}

pub fn append_by_two(dir: &Path) -> Outcome {
    let path = dir.join("f");
    File::create(&path)?;
    let mut children = [child("append", &path).spawn()?, child("append", &path).spawn()?];
    for child in &mut children {
        expect!(child.wait()?.success(), "a writer failed");
    }
    let text = fs::read_to_string(&path)?;
    let whole = text.lines().filter(|line| *line == "0123456789abcdef").count();
    expect!(whole == 400, "{whole} whole lines of 400");
    Ok(())
}

pub fn lock_of_whole_file(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let lock = Flock::lock(both(&path)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    answers(&mut child("flock", &path), Err(Errno::EAGAIN))?;
    drop(lock);
    answers(&mut child("flock", &path), Ok(()))
}

pub fn lock_of_range(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = both(&path)?;
    fcntl(&file, FcntlArg::F_SETLK(&range(0, 10)))?;
    answers(&mut child("range", &path), Err(Errno::EAGAIN))?;
    answers(&mut child("range-else", &path), Ok(()))?;
    drop(file);
    answers(&mut child("range", &path), Ok(()))
}

fn mapped(file: &File) -> Result<MmapRegion, Box<dyn Error>> {
    Ok(MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), 4 * PAGE)?)
}

fn seen<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> Vec<u8> {
    let mut bytes = vec![0; slice.len()];
    slice.copy_to(&mut bytes[..]);
    bytes
}

pub fn mapping_shared_writable(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = both(&path)?;
    file.set_len(4 * PAGE as u64)?;
    let map = mapped(&file)?;
    map.get_slice(PAGE, 6)?.copy_from(b"mapped");
    let mut six = [0; 6];
    file.read_exact_at(&mut six, PAGE as u64)?;
    expect!(&six == b"mapped", "read(2) does not see what was stored");
    file.write_all_at(b"written", 100)?;
    expect!(
        seen(&map.get_slice(100, 7)?) == b"written",
        "the mapping does not see write(2)"
    );
    file.sync_all()?;
    drop(map);
    drop(file);
    expect!(fs::read(&path)?[PAGE..PAGE + 6] == *b"mapped", "lost when unmapped");
    Ok(())
}

pub fn mapping_by_two(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = both(&path)?;
    file.set_len(4 * PAGE as u64)?;
    let (one, two) = (mapped(&file)?, mapped(&both(&path)?)?);
    fs::remove_file(&path)?;
    one.get_slice(0, 4)?.copy_from(b"here");
    expect!(
        seen(&two.get_slice(0, 4)?) == b"here",
        "the other mapping does not see it"
    );
    Ok(())
}

pub fn direct_io(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let direct = |write| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(write)
            .create(write)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(&path)
    };
    let mut buffer = vec![0_u8; 9 * PAGE];
    let start = buffer.as_ptr().align_offset(PAGE);
    let aligned = &mut buffer[start..start + 8 * PAGE];
    aligned.copy_from_slice(&pattern(8 * PAGE));
    let file = direct(true)?;
    expect!(file.write_at(aligned, 0)? == 8 * PAGE, "a short write");
    expect!(fs::read(&path)? == pattern(8 * PAGE), "buffered reads differ");
    both(&path)?.write_all_at(b"buffered", PAGE as u64)?;
    aligned.fill(0);
    expect!(direct(false)?.read_at(aligned, 0)? == 8 * PAGE, "a short read");
    expect!(
        &aligned[PAGE..PAGE + 8] == b"buffered",
        "direct reads miss buffered writes"
    );
    expect!(
        aligned[2 * PAGE..] == pattern(8 * PAGE)[2 * PAGE..],
        "direct reads differ"
    );
    Ok(())
}

pub fn holes(dir: &Path) -> Outcome {
    const MIB: i64 = 1 << 20;
    let path = dir.join("f");
    let file = both(&path)?;
    file.write_all_at(&pattern(PAGE), 8 << 20)?;
    file.set_len(1 << 30)?;
    file.sync_all()?;
    let meta = file.metadata()?;
    expect!(
        meta.len() == 1 << 30 && meta.blocks() < 4096,
        "{} blocks of 512 bytes",
        meta.blocks()
    );
    let data = lseek(&file, 0, Whence::SeekData)?;
    expect!(data == 8 * MIB, "data at {data}");
    let hole = lseek(&file, data, Whence::SeekHole)?;
    expect!(hole > data && hole < 9 * MIB, "hole at {hole}");
    refused(
        "data after the last",
        lseek(&file, hole, Whence::SeekData),
        Errno::ENXIO,
    )
}

pub fn holes_punched(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, pattern(1 << 20))?;
    let file = both(&path)?;
    file.sync_all()?;
    let before = file.metadata()?.blocks();
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, flags, 64 << 10, 512 << 10)?;
    let bytes = fs::read(&path)?;
    expect!(bytes.len() == 1 << 20, "{} bytes", bytes.len());
    expect!(bytes[64 << 10..576 << 10].iter().all(|b| *b == 0), "the hole has bytes");
    expect!(
        bytes[..64 << 10] == pattern(64 << 10)[..],
        "bytes before the hole are lost"
    );
    expect!(file.metadata()?.blocks() < before, "nothing was freed");
    Ok(())
}

pub fn space_reserved(dir: &Path) -> Outcome {
    let file = both(&dir.join("f"))?;
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 1 << 20)?;
    let meta = file.metadata()?;
    expect!(
        meta.len() == 0 && meta.blocks() >= 2048,
        "{} bytes, {} blocks",
        meta.len(),
        meta.blocks()
    );
    fallocate(&file, FallocateFlags::empty(), 0, 2 << 20)?;
    expect!(file.metadata()?.len() == 2 << 20, "{} bytes", file.metadata()?.len());
    Ok(())
}

pub fn copy_of_range(dir: &Path) -> Outcome {
    fs::write(dir.join("a"), pattern(300_000))?;
    let (from, to) = (File::open(dir.join("a"))?, both(&dir.join("b"))?);
    let mut left = 300_000;
    while left > 0 {
        let copied = copy_file_range(&from, None, &to, None, left)?;
        expect!(copied > 0, "{left} bytes are left");
        left -= copied;
    }
    expect!(fs::read(dir.join("b"))? == pattern(300_000), "the copy differs");
    Ok(())
}
