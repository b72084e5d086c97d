// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Names: creating, renaming, linking, removing, listing.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use nix::unistd::linkat;

use crate::{Outcome, both, refused};

pub fn exclusive_create(dir: &Path) -> Outcome {
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

pub fn names_of_any_bytes(dir: &Path) -> Outcome {
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

pub fn rename_replaces(dir: &Path) -> Outcome {
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

pub fn rename_noreplace(dir: &Path) -> Outcome {
    fs::write(dir.join("a"), "a")?;
    fs::write(dir.join("b"), "b")?;
    refused("replace", renamed(dir, RenameFlags::RENAME_NOREPLACE), Errno::EEXIST)?;
    fs::remove_file(dir.join("b"))?;
    renamed(dir, RenameFlags::RENAME_NOREPLACE)?;
    expect!(fs::read(dir.join("b"))? == b"a", "not renamed");
    Ok(())
}

pub fn rename_exchange(dir: &Path) -> Outcome {
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

pub fn rename_of_directories(dir: &Path) -> Outcome {
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

pub fn rename_while_open(dir: &Path) -> Outcome {
    let mut file = both(&dir.join("a"))?;
    fs::rename(dir.join("a"), dir.join("b"))?;
    file.write_all(b"late")?;
    expect!(fs::read(dir.join("b"))? == b"late", "the write went elsewhere");
    Ok(())
}

pub fn hard_links(dir: &Path) -> Outcome {
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

pub fn symbolic_links(dir: &Path) -> Outcome {
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

pub fn unlink_while_open(dir: &Path) -> Outcome {
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

pub fn directories_refuse(dir: &Path) -> Outcome {
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

pub fn directory_read_while_emptied(dir: &Path) -> Outcome {
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

pub fn many_files(dir: &Path) -> Outcome {
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
