// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors that a parent leaves open for its child, told by number on the command line.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::{Context, Result, sys};

/// Takes descriptor `number` over and closes it at exec. To be called once per number. Errors: it is a standard stream, or not
/// open.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    sys::inherited(number).attempt(|| format!("take over descriptor {number}"))
}

/// Starts `command`, which inherits `passed` under their numbers. A process of many threads starts all its children so: a child
/// would else get what is meant for another one, and keep it open.
pub fn spawn(command: &mut Command, passed: &[BorrowedFd<'_>]) -> io::Result<Child> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mark = |flags: FdFlag| -> io::Result<()> {
        for fd in passed {
            fcntl(fd, FcntlArg::F_SETFD(flags))?;
        }
        Ok(())
    };
    mark(FdFlag::empty())?;
    let child = command.spawn();
    mark(FdFlag::FD_CLOEXEC)?;
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_what_was_passed_and_nothing_of_another() {
        use std::io::Read;
        use std::os::fd::{AsFd, AsRawFd};

        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        let words = ["-c", "echo passed > /proc/self/fd/$0", &number.to_string()];
        let mut child = spawn(Command::new("sh").args(words), &[writer.as_fd()]).unwrap();
        assert!(child.wait().unwrap().success());
        let mut other = spawn(Command::new("sleep").arg("60"), &[]).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "passed\n");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn what_is_not_open_and_standard_streams_are_refused() {
        for number in [-1, 0, 2, 100_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
