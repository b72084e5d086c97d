// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What applications do to files: `posix_torture DIRECTORY [FILES]`, as root. One line per check, `ok name` or `FAIL name: why`; exit
//! code 1 if any failed. It is proved on a file system of the host before it judges ours, from inside a guest. FILES (2000) is how
//! many the directory of many files holds.
//!
//! It knows nothing of virtual machines, and needs nothing but itself: link it statically.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, Flock, FlockArg, OFlag, RenameFlags, copy_file_range, fallocate,
    fcntl, renameat2,
};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, linkat, lseek, mkfifo};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

type Outcome = Result<(), Box<dyn Error>>;
type Check = (&'static str, fn(&Path) -> Outcome);

/// The bytes of a page.
const PAGE: usize = 4096;
/// Somebody who is not root, and a group that is not theirs by default.
const USER: u32 = 12345;
const GROUP: u32 = 23456;

macro_rules! expect {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+).into());
        }
    };
}

const CHECKS: &[Check] = &[
    ("read_and_write", read_and_write),
    ("truncate_and_extend", truncate_and_extend),
    ("append_by_two", append_by_two),
    ("exclusive_create", exclusive_create),
    ("names_of_any_bytes", names_of_any_bytes),
    ("rename_replaces", rename_replaces),
    ("rename_noreplace", rename_noreplace),
    ("rename_exchange", rename_exchange),
    ("rename_of_directories", rename_of_directories),
    ("rename_while_open", rename_while_open),
    ("hard_links", hard_links),
    ("symbolic_links", symbolic_links),
    ("unlink_while_open", unlink_while_open),
    ("directories_refuse", directories_refuse),
    ("attributes_extended", attributes_extended),
    ("lock_of_whole_file", lock_of_whole_file),
    ("lock_of_range", lock_of_range),
    ("mapping_shared_writable", mapping_shared_writable),
    ("mapping_by_two", mapping_by_two),
    ("direct_io", direct_io),
    ("holes", holes),
    ("holes_punched", holes_punched),
    ("space_reserved", space_reserved),
    ("copy_of_range", copy_of_range),
    ("times_by_nanosecond", times_by_nanosecond),
    ("owner_kept", owner_kept),
    ("owner_of_new_files", owner_of_new_files),
    ("group_of_directory", group_of_directory),
    ("group_supplementary", group_supplementary),
    ("access_denied", access_denied),
    ("sticky_directory", sticky_directory),
    ("set_uid_cleared_by_write", set_uid_cleared_by_write),
    ("set_uid_cleared_by_chown", set_uid_cleared_by_chown),
    ("umask_honoured", umask_honoured),
    ("special_files", special_files),
    ("program_runs", program_runs),
    ("file_system_size", file_system_size),
    ("directory_read_while_emptied", directory_read_while_emptied),
    ("many_files", many_files),
];

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let done = match &words[..] {
        [_, child, what, path] if child == "--child" => return as_child(what, Path::new(path)),
        [_, dir] | [_, dir, _] => run(Path::new(dir)),
        _ => Err("usage: posix_torture DIRECTORY [FILES]".into()),
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} of {} failed", CHECKS.len());
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("posix_torture: {e}");
            ExitCode::from(2)
        }
    }
}

/// How many failed.
fn run(dir: &Path) -> Result<usize, Box<dyn Error>> {
    let dir = fs::canonicalize(dir)?.join(format!("torture-{}", std::process::id()));
    nix::sys::stat::umask(Mode::empty());
    DirBuilder::new().mode(0o777).create(&dir)?;
    let mut failed = 0;
    for (name, check) in CHECKS {
        let place = dir.join(name);
        let made = DirBuilder::new().mode(0o777).create(&place);
        match made.map_err(Into::into).and_then(|()| check(&place)) {
            Ok(()) => println!("ok {name}"),
            Err(e) => {
                println!("FAIL {name}: {e}");
                failed += 1;
            }
        }
    }
    fs::remove_dir_all(&dir)?;
    Ok(failed)
}

/// This program again, with a task for one who has other rights or other locks. Exit code: 0, or the error's number.
fn child(what: &str, path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--child").arg(what).arg(path);
    command
}

fn as_child(what: &OsStr, path: &Path) -> ExitCode {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let done: std::io::Result<()> = match what.as_bytes() {
        b"create" => File::create(path).map(drop),
        b"read" => File::open(path).map(drop),
        b"write" => OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut f| f.write_all(b"x")),
        b"remove" => fs::remove_file(path),
        b"mkdir" => fs::create_dir(path),
        b"append" => (0..200).try_for_each(|_| {
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(b"0123456789abcdef\n")
        }),
        b"flock" => open().and_then(|file| match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(()),
            Err((_, e)) => Err(e.into()),
        }),
        b"range" => open().and_then(|file| Ok(fcntl(&file, FcntlArg::F_SETLK(&range(0, 10))).map(drop)?)),
        b"range-else" => open().and_then(|file| Ok(fcntl(&file, FcntlArg::F_SETLK(&range(10, 10))).map(drop)?)),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(u8::try_from(e.raw_os_error().unwrap_or(255)).unwrap_or(255)),
    }
}

fn answers(command: &mut Command, wanted: Result<(), Errno>) -> Outcome {
    let code = command.status()?.code();
    let wanted = wanted.map_or_else(|e| e as i32, |()| 0);
    expect!(code == Some(wanted), "{command:?} ended with {code:?}, not {wanted}");
    Ok(())
}

fn refused<T>(what: &str, got: Result<T, impl Into<std::io::Error>>, wanted: Errno) -> Outcome {
    match got.map_err(Into::into) {
        Ok(_) => Err(format!("{what}: went through, {wanted} expected").into()),
        Err(e) if e.raw_os_error() == Some(wanted as i32) => Ok(()),
        Err(e) => Err(format!("{what}: {e}, {wanted} expected").into()),
    }
}

fn both(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn pattern(len: usize) -> Vec<u8> {
    let byte = |n: usize| u8::try_from((n * 7 + n / 251) % 251).unwrap_or(0);
    (0..len).map(byte).collect()
}

fn read_and_write(dir: &Path) -> Outcome {
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

fn truncate_and_extend(dir: &Path) -> Outcome {
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

fn append_by_two(dir: &Path) -> Outcome {
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

fn exclusive_create(dir: &Path) -> Outcome {
    let path = dir.join("f");
    File::create_new(&path)?;
    refused("create again", File::create_new(&path), Errno::EEXIST)?;
    symlink("nowhere", dir.join("dangling"))?;
    refused(
        "create a link's name",
        File::create_new(dir.join("dangling")),
        Errno::EEXIST,
    )?;
    let followed = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(dir.join("dangling"));
    refused("open a link itself", followed, Errno::ELOOP)?;
    refused("open what is not there", File::open(dir.join("nothing")), Errno::ENOENT)?;
    refused("go through a file", File::open(path.join("x")), Errno::ENOTDIR)
}

fn names_of_any_bytes(dir: &Path) -> Outcome {
    let names: [&[u8]; 5] = [
        b"\xff\xfe\x01",
        b" ",
        b"new\nline",
        "\u{1f980}".as_bytes(),
        &[b'n'; 255],
    ];
    for name in names {
        File::create(dir.join(OsStr::from_bytes(name)))?;
    }
    let mut seen = Vec::new();
    for entry in fs::read_dir(dir)? {
        seen.push(entry?.file_name().as_bytes().to_vec());
    }
    for name in names {
        expect!(seen.iter().any(|s| s == name), "{} is not listed", name.escape_ascii());
    }
    let long = OsStr::from_bytes(&[b'n'; 256]);
    refused("a name of 256 bytes", File::create(dir.join(long)), Errno::ENAMETOOLONG)
}

fn rename_replaces(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "a")?;
    fs::write(&b, "b")?;
    let mut old = File::open(&b)?;
    fs::rename(&a, &b)?;
    expect!(!a.exists() && fs::read(&b)? == b"a", "not replaced");
    let mut text = String::new();
    old.read_to_string(&mut text)?;
    expect!(text == "b", "who had it open reads {text:?}");
    refused("rename what is gone", fs::rename(&a, &b), Errno::ENOENT)
}

fn renamed(dir: &Path, flags: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, &dir.join("a"), AT_FDCWD, &dir.join("b"), flags)
}

fn rename_noreplace(dir: &Path) -> Outcome {
    fs::write(dir.join("a"), "a")?;
    fs::write(dir.join("b"), "b")?;
    refused("replace", renamed(dir, RenameFlags::RENAME_NOREPLACE), Errno::EEXIST)?;
    fs::remove_file(dir.join("b"))?;
    renamed(dir, RenameFlags::RENAME_NOREPLACE)?;
    expect!(fs::read(dir.join("b"))? == b"a", "not renamed");
    Ok(())
}

fn rename_exchange(dir: &Path) -> Outcome {
    fs::write(dir.join("a"), "a")?;
    fs::create_dir(dir.join("b"))?;
    fs::write(dir.join("b/inside"), "")?;
    renamed(dir, RenameFlags::RENAME_EXCHANGE)?;
    expect!(
        fs::read(dir.join("b"))? == b"a" && dir.join("a/inside").exists(),
        "not exchanged"
    );
    Ok(())
}

fn rename_of_directories(dir: &Path) -> Outcome {
    fs::create_dir_all(dir.join("a/b/c"))?;
    fs::write(dir.join("a/b/c/f"), "f")?;
    fs::create_dir(dir.join("empty"))?;
    fs::rename(dir.join("a/b"), dir.join("empty"))?;
    expect!(fs::read(dir.join("empty/c/f"))? == b"f", "the tree did not come along");
    refused(
        "into itself",
        fs::rename(dir.join("empty"), dir.join("empty/c/d")),
        Errno::EINVAL,
    )?;
    fs::create_dir(dir.join("other"))?;
    refused(
        "over a full one",
        fs::rename(dir.join("other"), dir.join("empty")),
        Errno::ENOTEMPTY,
    )
}

fn rename_while_open(dir: &Path) -> Outcome {
    let mut file = both(&dir.join("a"))?;
    fs::rename(dir.join("a"), dir.join("b"))?;
    file.write_all(b"late")?;
    expect!(fs::read(dir.join("b"))? == b"late", "the write went elsewhere");
    Ok(())
}

fn hard_links(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "1")?;
    fs::hard_link(&a, &b)?;
    fs::write(&b, "22")?;
    let (one, two) = (fs::metadata(&a)?, fs::metadata(&b)?);
    expect!(
        one.ino() == two.ino() && two.nlink() == 2,
        "{} links, inodes {} {}",
        two.nlink(),
        one.ino(),
        two.ino()
    );
    expect!(fs::read(&a)? == b"22", "the names have different bytes");
    refused("link over a name", fs::hard_link(&a, &b), Errno::EEXIST)?;
    refused("link a directory", fs::hard_link(dir, dir.join("d")), Errno::EPERM)?;
    symlink("a", dir.join("s"))?;
    linkat(AT_FDCWD, &dir.join("s"), AT_FDCWD, &dir.join("t"), AtFlags::empty())?;
    expect!(
        fs::symlink_metadata(dir.join("t"))?.is_symlink(),
        "the link was followed"
    );
    fs::remove_file(&a)?;
    expect!(
        fs::metadata(&b)?.nlink() == 1,
        "{} links are left",
        fs::metadata(&b)?.nlink()
    );
    Ok(())
}

fn symbolic_links(dir: &Path) -> Outcome {
    let long = "x/".repeat(1500) + "end";
    for (name, target) in [
        ("dangling", "nowhere"),
        ("long", long.as_str()),
        ("up", "../../../../.."),
    ] {
        symlink(target, dir.join(name))?;
        expect!(
            fs::read_link(dir.join(name))?.as_os_str() == target,
            "{name} points elsewhere"
        );
    }
    fs::write(dir.join("f"), "f")?;
    symlink("f", dir.join("s"))?;
    expect!(fs::read(dir.join("s"))? == b"f", "not followed");
    symlink("loop", dir.join("loop"))?;
    refused("follow a loop", File::open(dir.join("loop")), Errno::ELOOP)
}

fn unlink_while_open(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let mut file = both(&path)?;
    file.write_all(b"before ")?;
    fs::remove_file(&path)?;
    file.write_all(b"after")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let meta = file.metadata()?;
    expect!(text == "before after", "reads {text:?}");
    expect!(
        meta.nlink() == 0 && meta.len() == 12,
        "{} links, {} bytes",
        meta.nlink(),
        meta.len()
    );
    file.set_len(3)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    fs::write(&path, "another")?;
    expect!(
        file.metadata()?.len() == 3,
        "a new file of that name is mistaken for it"
    );
    Ok(())
}

fn directories_refuse(dir: &Path) -> Outcome {
    fs::create_dir_all(dir.join("d/e"))?;
    fs::write(dir.join("f"), "")?;
    refused("rmdir of a full one", fs::remove_dir(dir.join("d")), Errno::ENOTEMPTY)?;
    refused("unlink of a directory", fs::remove_file(dir.join("d")), Errno::EISDIR)?;
    refused("rmdir of a file", fs::remove_dir(dir.join("f")), Errno::ENOTDIR)?;
    refused("mkdir twice", fs::create_dir(dir.join("d")), Errno::EEXIST)?;
    refused(
        "write to a directory",
        OpenOptions::new().write(true).open(dir.join("d")),
        Errno::EISDIR,
    )?;
    expect!(fs::metadata(dir.join("d"))?.nlink() >= 1, "no link");
    Ok(())
}

fn attributes_extended(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, "")?;
    for (name, value) in [
        ("user.one", b"1".to_vec()),
        ("user.big", pattern(2000)),
        ("trusted.two", b"2".to_vec()),
    ] {
        xattr::set(&path, name, &value)?;
        expect!(xattr::get(&path, name)? == Some(value), "{name} came back different");
    }
    let mut names: Vec<_> = xattr::list(&path)?
        .filter(|n| !n.as_bytes().starts_with(b"security."))
        .collect();
    names.sort();
    expect!(names == ["trusted.two", "user.big", "user.one"], "listed: {names:?}");
    xattr::set(&path, "user.one", b"")?;
    expect!(
        xattr::get(&path, "user.one")? == Some(Vec::new()),
        "an empty value is lost"
    );
    xattr::remove(&path, "user.one")?;
    expect!(xattr::get(&path, "user.one")?.is_none(), "not removed");
    xattr::set(dir, "user.dir", b"d")?;
    expect!(
        xattr::get(dir, "user.dir")? == Some(b"d".to_vec()),
        "a directory's is lost"
    );
    symlink("f", dir.join("s"))?;
    refused(
        "user attribute of a link",
        xattr::set(dir.join("s"), "user.x", b""),
        Errno::EPERM,
    )
}

fn lock_of_whole_file(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let lock = Flock::lock(both(&path)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    answers(&mut child("flock", &path), Err(Errno::EAGAIN))?;
    drop(lock);
    answers(&mut child("flock", &path), Ok(()))
}

fn range(start: i64, len: i64) -> libc::flock {
    let short = |number: i32| i16::try_from(number).unwrap_or(0);
    libc::flock {
        l_type: short(libc::F_WRLCK),
        l_whence: short(libc::SEEK_SET),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn lock_of_range(dir: &Path) -> Outcome {
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

fn mapping_shared_writable(dir: &Path) -> Outcome {
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

fn mapping_by_two(dir: &Path) -> Outcome {
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

fn direct_io(dir: &Path) -> Outcome {
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

fn holes(dir: &Path) -> Outcome {
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

fn holes_punched(dir: &Path) -> Outcome {
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

fn space_reserved(dir: &Path) -> Outcome {
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

fn copy_of_range(dir: &Path) -> Outcome {
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

fn times_by_nanosecond(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, "")?;
    let (read, written) = (
        TimeSpec::new(1_000_000_001, 123_456_789),
        TimeSpec::new(-5, 987_654_321),
    );
    utimensat(AT_FDCWD, &path, &read, &written, UtimensatFlags::FollowSymlink)?;
    let meta = fs::metadata(&path)?;
    expect!(
        (meta.atime(), meta.atime_nsec()) == (1_000_000_001, 123_456_789),
        "atime {} {}",
        meta.atime(),
        meta.atime_nsec()
    );
    expect!(
        (meta.mtime(), meta.mtime_nsec()) == (-5, 987_654_321),
        "mtime {} {}",
        meta.mtime(),
        meta.mtime_nsec()
    );
    OpenOptions::new().append(true).open(&path)?.write_all(b"x")?;
    expect!(
        fs::metadata(&path)?.mtime() > 1_000_000_000,
        "a write does not change mtime"
    );
    Ok(())
}

fn owner_kept(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, "")?;
    chown(&path, Some(USER), Some(GROUP))?;
    fs::set_permissions(&path, Permissions::from_mode(0o4751))?;
    let meta = fs::metadata(&path)?;
    expect!(
        (meta.uid(), meta.gid()) == (USER, GROUP),
        "owner {}:{}",
        meta.uid(),
        meta.gid()
    );
    expect!(meta.mode() & 0o7777 == 0o4751, "mode {:o}", meta.mode());
    symlink("f", dir.join("s"))?;
    std::os::unix::fs::lchown(dir.join("s"), Some(7), Some(8))?;
    let link = fs::symlink_metadata(dir.join("s"))?;
    expect!(
        (link.uid(), link.gid()) == (7, 8),
        "link's owner {}:{}",
        link.uid(),
        link.gid()
    );
    Ok(())
}

fn owner_of_new_files(dir: &Path) -> Outcome {
    for (what, name) in [("create", "f"), ("mkdir", "d")] {
        let path = dir.join(name);
        answers(child(what, &path).uid(USER).gid(GROUP), Ok(()))?;
        let meta = fs::metadata(&path)?;
        expect!(
            (meta.uid(), meta.gid()) == (USER, GROUP),
            "{what}: owner {}:{}",
            meta.uid(),
            meta.gid()
        );
    }
    File::create(dir.join("roots"))?;
    expect!(
        fs::metadata(dir.join("roots"))?.uid() == 0,
        "root's file is {}'s",
        fs::metadata(dir.join("roots"))?.uid()
    );
    Ok(())
}

fn group_of_directory(dir: &Path) -> Outcome {
    chown(dir, None, Some(GROUP))?;
    fs::set_permissions(dir, Permissions::from_mode(0o2777))?;
    answers(child("create", &dir.join("f")).uid(USER).gid(USER), Ok(()))?;
    answers(child("mkdir", &dir.join("d")).uid(USER).gid(USER), Ok(()))?;
    let (file, below) = (fs::metadata(dir.join("f"))?, fs::metadata(dir.join("d"))?);
    expect!(
        file.gid() == GROUP && below.gid() == GROUP,
        "groups {} and {}",
        file.gid(),
        below.gid()
    );
    expect!(
        below.mode() & 0o2000 != 0,
        "the directory below has mode {:o}",
        below.mode()
    );
    Ok(())
}

/// std sets no supplementary groups; the shell's tools would not be there. So: a directory of the *primary* group's, by mode only, and
/// then the same one for a group that is only supplementary, entered with `setgroups` before the change of user.
fn group_supplementary(dir: &Path) -> Outcome {
    chown(dir, Some(0), Some(GROUP))?;
    fs::set_permissions(dir, Permissions::from_mode(0o770))?;
    answers(
        child("create", &dir.join("stranger")).uid(USER).gid(USER),
        Err(Errno::EACCES),
    )?;
    answers(child("create", &dir.join("member")).uid(USER).gid(GROUP), Ok(()))?;
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(GROUP)])?;
    nix::unistd::setegid(nix::unistd::Gid::from_raw(USER))?;
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(USER))?;
    let created = File::create(dir.join("extra"));
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(0))?;
    nix::unistd::setegid(nix::unistd::Gid::from_raw(0))?;
    nix::unistd::setgroups(&[])?;
    created?;
    let meta = fs::metadata(dir.join("extra"))?;
    expect!(
        (meta.uid(), meta.gid()) == (USER, USER),
        "owner {}:{}",
        meta.uid(),
        meta.gid()
    );
    Ok(())
}

fn access_denied(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, "secret")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    answers(child("read", &path).uid(USER).gid(USER), Err(Errno::EACCES))?;
    answers(child("write", &path).uid(USER).gid(USER), Err(Errno::EACCES))?;
    fs::create_dir(dir.join("d"))?;
    fs::write(dir.join("d/f"), "")?;
    fs::set_permissions(dir.join("d"), Permissions::from_mode(0o700))?;
    answers(child("read", &dir.join("d/f")).uid(USER).gid(USER), Err(Errno::EACCES))?;
    fs::set_permissions(&path, Permissions::from_mode(0o000))?;
    answers(&mut child("read", &path), Ok(()))
}

fn sticky_directory(dir: &Path) -> Outcome {
    fs::set_permissions(dir, Permissions::from_mode(0o1777))?;
    fs::write(dir.join("f"), "")?;
    answers(child("remove", &dir.join("f")).uid(USER).gid(USER), Err(Errno::EPERM))?;
    answers(child("create", &dir.join("own")).uid(USER).gid(USER), Ok(()))?;
    answers(child("remove", &dir.join("own")).uid(USER).gid(USER), Ok(()))
}

fn set_uid_file(path: &Path) -> Outcome {
    fs::write(path, "x")?;
    chown(path, Some(USER), Some(GROUP))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o6777))?)
}

fn set_uid_cleared_by_write(dir: &Path) -> Outcome {
    let path = dir.join("f");
    set_uid_file(&path)?;
    answers(child("write", &path).uid(USER + 1).gid(GROUP), Ok(()))?;
    let mode = fs::metadata(&path)?.mode() & 0o7777;
    expect!(mode == 0o777, "mode {mode:o} after a stranger's write");
    Ok(())
}

fn set_uid_cleared_by_chown(dir: &Path) -> Outcome {
    let path = dir.join("f");
    set_uid_file(&path)?;
    chown(&path, Some(USER + 1), None)?;
    let mode = fs::metadata(&path)?.mode() & 0o7777;
    expect!(mode == 0o777, "mode {mode:o} after a change of owner");
    Ok(())
}

fn umask_honoured(dir: &Path) -> Outcome {
    nix::sys::stat::umask(Mode::from_bits_truncate(0o027));
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .open(dir.join("f"));
    let below = DirBuilder::new().mode(0o777).create(dir.join("d"));
    nix::sys::stat::umask(Mode::empty());
    made?;
    below?;
    let modes = (
        fs::metadata(dir.join("f"))?.mode() & 0o777,
        fs::metadata(dir.join("d"))?.mode() & 0o777,
    );
    expect!(modes == (0o640, 0o750), "modes {:o} and {:o}", modes.0, modes.1);
    Ok(())
}

fn special_files(dir: &Path) -> Outcome {
    mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o600))?;
    mknod(
        &dir.join("null"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(1, 3),
    )?;
    let _listener = UnixListener::bind(dir.join("socket"))?;
    let kind = |name: &str| fs::symlink_metadata(dir.join(name));
    expect!(kind("fifo")?.file_type().is_fifo(), "no fifo");
    expect!(kind("socket")?.file_type().is_socket(), "no socket");
    expect!(
        kind("null")?.rdev() == makedev(1, 3),
        "device {:x}",
        kind("null")?.rdev()
    );
    let writer = dir.join("fifo");
    let writer = std::thread::spawn(move || fs::write(writer, "through"));
    let text = fs::read_to_string(dir.join("fifo"))?;
    expect!(text == "through", "the fifo carries {text:?}");
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(())
}

fn program_runs(dir: &Path) -> Outcome {
    let path = dir.join("program");
    fs::copy("/proc/self/exe", &path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    answers(
        Command::new(&path).arg("--child").arg("create").arg(dir.join("f")),
        Ok(()),
    )?;
    expect!(dir.join("f").exists(), "it did nothing");
    Ok(())
}

fn file_system_size(dir: &Path) -> Outcome {
    let size = statvfs(dir)?;
    expect!(size.blocks() > 0 && size.block_size() > 0, "{} blocks", size.blocks());
    expect!(size.blocks_free() <= size.blocks(), "more is free than there is");
    Ok(())
}

fn directory_read_while_emptied(dir: &Path) -> Outcome {
    for n in 0..500 {
        File::create(dir.join(format!("f{n}")))?;
    }
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
        removed += 1;
    }
    let left = fs::read_dir(dir)?.count();
    expect!(removed == 500 && left == 0, "{removed} removed, {left} left");
    Ok(())
}

fn many_files(dir: &Path) -> Outcome {
    let count = std::env::args().nth(2).map_or(Ok(2000), |n| n.parse::<usize>())?;
    for n in 0..count {
        File::create(dir.join(format!("f{n:06}")))?;
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let listed = names.len();
    names.dedup();
    expect!(
        listed == count && names.len() == count,
        "{listed} listed, {} different, of {count}",
        names.len()
    );
    for name in names {
        fs::remove_file(dir.join(name))?;
    }
    expect!(fs::read_dir(dir)?.next().is_none(), "some are left");
    Ok(())
}
