// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is known of a file beside its bytes, and files that are no files.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;

use crate::child::answers;
use crate::content::pattern;
use crate::{Outcome, refused};

pub fn attributes_extended(dir: &Path) -> Outcome {
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

pub fn times_by_nanosecond(dir: &Path) -> Outcome {
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

pub fn special_files(dir: &Path) -> Outcome {
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

pub fn program_runs(dir: &Path) -> Outcome {
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

pub fn file_system_size(dir: &Path) -> Outcome {
    let size = statvfs(dir)?;
    expect!(size.blocks() > 0 && size.block_size() > 0, "{} blocks", size.blocks());
    expect!(size.blocks_free() <= size.blocks(), "more is free than there is");
    Ok(())
}
