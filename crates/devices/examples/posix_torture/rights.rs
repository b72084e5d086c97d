// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Who may do what, and whose a new file is.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::child::{answers, child};
use crate::{GROUP, Outcome, USER};

pub fn owner_kept(dir: &Path) -> Outcome {
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

pub fn owner_of_new_files(dir: &Path) -> Outcome {
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

pub fn group_of_directory(dir: &Path) -> Outcome {
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
pub fn group_supplementary(dir: &Path) -> Outcome {
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

pub fn access_denied(dir: &Path) -> Outcome {
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

pub fn sticky_directory(dir: &Path) -> Outcome {
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

pub fn set_uid_cleared_by_write(dir: &Path) -> Outcome {
    let path = dir.join("f");
    set_uid_file(&path)?;
    answers(child("write", &path).uid(USER + 1).gid(GROUP), Ok(()))?;
    let mode = fs::metadata(&path)?.mode() & 0o7777;
    expect!(mode == 0o777, "mode {mode:o} after a stranger's write");
    Ok(())
}

pub fn set_uid_cleared_by_chown(dir: &Path) -> Outcome {
    let path = dir.join("f");
    set_uid_file(&path)?;
    chown(&path, Some(USER + 1), None)?;
    let mode = fs::metadata(&path)?.mode() & 0o7777;
    expect!(mode == 0o777, "mode {mode:o} after a change of owner");
    Ok(())
}

pub fn umask_honoured(dir: &Path) -> Outcome {
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
