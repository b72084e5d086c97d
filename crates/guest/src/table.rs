// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The processes of a container as its own /proc tells them: with the pids that they have there, file by file.
//!
//! What is mounted at the container's /proc is up to the container. So only a file system of the kernel's own is read, from its root,
//! by names of ours, without following links or entering what is mounted upon it: no read waits for anybody's good will.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use base::{Context, Error, Kind, Result};
use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

/// Most bytes of a file: command lines may be long.
const MOST: u64 = 32 << 10;
/// After so many bytes no further process is begun.
const PART: usize = 1 << 20;
/// Inode of the root of any proc file system.
const ROOT: u64 = 1;

/// What its files say, each cut off where it is too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// In the container's pid namespace.
    pub pid: u32,
    /// `/proc/<pid>/stat`.
    pub stat: Vec<u8>,
    /// `/proc/<pid>/status`.
    pub status: Vec<u8>,
    /// `/proc/<pid>/cmdline`.
    pub cmdline: Vec<u8>,
    /// `/proc/<pid>/comm`.
    pub comm: Vec<u8>,
}

/// Part of a table.
#[derive(Debug)]
pub struct Table {
    /// In order of their pids.
    pub rows: Vec<Row>,
    /// There are processes with greater pids.
    pub more: bool,
    /// `/proc/stat`, which has the time of the boot.
    pub stat: Vec<u8>,
    /// `/proc/uptime`.
    pub uptime: Vec<u8>,
}

/// The root directory of process `pid`, which must not be reaped meanwhile.
pub fn root(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).attempt(|| format!("open {path}"))
}

/// Reads the processes with greater pids than `after` in the /proc below `root`. Errors: `State` when it has none.
pub fn read(root: impl AsFd, after: u32) -> Result<Table> {
    let what = || "open the container's /proc".to_owned();
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let proc = match openat2(root, "proc", how) {
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Err(Error::new(Kind::State, "it has no /proc")),
        other => other.attempt(what)?,
    };
    let own = fstatfs(&proc).attempt(what)?.filesystem_type() == PROC_SUPER_MAGIC;
    if !own || fstat(&proc).attempt(what)?.st_ino != ROOT {
        return Err(Error::new(Kind::State, "its /proc is something else"));
    }
    let mut pids = pids(&proc).attempt(|| "list the container's /proc".into())?;
    pids.retain(|pid| *pid > after);
    pids.sort_unstable();
    let (mut rows, mut size) = (Vec::new(), 0);
    let mut rest = pids.into_iter();
    while size < PART
        && let Some(pid) = rest.next()
    {
        if let Some(row) = row(&proc, pid) {
            size += row.stat.len() + row.status.len() + row.cmdline.len() + row.comm.len();
            rows.push(row);
        }
    }
    Ok(Table {
        rows,
        more: rest.next().is_some(),
        stat: common("/proc/stat")?,
        uptime: common("/proc/uptime")?,
    })
}

fn pids(proc: &OwnedFd) -> nix::Result<Vec<u32>> {
    let own = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(proc, ".", own, Mode::empty())?;
    let names = dir.iter().filter_map(std::result::Result::ok);
    Ok(names
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .collect())
}

/// None when it has ended, or something hides it.
fn row(proc: &OwnedFd, pid: u32) -> Option<Row> {
    let read = |name: &str| file(proc, &format!("{pid}/{name}"));
    Some(Row {
        pid,
        stat: read("stat")?,
        status: read("status")?,
        cmdline: read("cmdline")?,
        comm: read("comm")?,
    })
}

fn file(proc: &OwnedFd, path: &str) -> Option<Vec<u8>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let file = File::from(openat2(proc, path, how).ok()?);
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Ours: it is the same for all.
fn common(path: &str) -> Result<Vec<u8>> {
    let what = || format!("read {path}");
    let mut bytes = Vec::new();
    let file = File::open(path).attempt(what)?;
    file.take(MOST).read_to_end(&mut bytes).attempt(what)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_files_are_read_and_pids_up_to_one_are_left_out() {
        let own = std::process::id();
        let root = root(i32::try_from(own).unwrap()).unwrap();
        let table = read(&root, own - 1).unwrap();
        let first = &table.rows[0];
        assert_eq!(first.pid, own);
        assert_eq!(first.cmdline, std::fs::read("/proc/self/cmdline").unwrap());
        assert_eq!(first.comm, std::fs::read("/proc/self/comm").unwrap());
        assert!(first.stat.starts_with(format!("{own} (").as_bytes()));
        assert!(first.status.starts_with(b"Name:\t"));
        assert!(String::from_utf8(table.stat).unwrap().contains("btime "));
        assert!(!table.uptime.is_empty());
        assert!(read(&root, u32::MAX).unwrap().rows.is_empty());
    }

    #[test]
    fn what_is_no_proc_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = open(dir.path(), flags, Mode::empty()).unwrap();
        assert_eq!(read(&root, 0).unwrap_err().kind(), Kind::State);
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        assert_eq!(read(&root, 0).unwrap_err().kind(), Kind::State);
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::remove_dir(dir.path().join("proc")).unwrap();
        // A link stays below the root.
        std::os::unix::fs::symlink("/etc", dir.path().join("proc")).unwrap();
        assert_eq!(read(&root, 0).unwrap_err().kind(), Kind::State);
    }
}
