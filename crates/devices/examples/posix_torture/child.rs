// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! This program again, as one who has other rights or other locks, and what is expected of its calls.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use crate::Outcome;

/// This program again, with a task for one who has other rights or other locks. Exit code: 0, or the error's number.
pub fn child(what: &str, path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--child").arg(what).arg(path);
    command
}

pub fn as_child(what: &OsStr, path: &Path) -> ExitCode {
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

pub fn answers(command: &mut Command, wanted: Result<(), Errno>) -> Outcome {
    let code = command.status()?.code();
    let wanted = wanted.map_or_else(|e| e as i32, |()| 0);
    expect!(code == Some(wanted), "{command:?} ended with {code:?}, not {wanted}");
    Ok(())
}

pub fn range(start: i64, len: i64) -> libc::flock {
    let short = |number: i32| i16::try_from(number).unwrap_or(0);
    libc::flock {
        l_type: short(libc::F_WRLCK),
        l_whence: short(libc::SEEK_SET),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}
