// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Terminals of the host: raw mode that is undone on every way out, and the pair whose master an engine gets over its console
//! socket. The terminal with the line discipline that the user sees is the guest's; these here only pass bytes.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, setsid};

use super::sys;
pub use super::sys::Size;

/// A terminal in raw mode until this is dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Switches to raw mode.
    pub fn enter(terminal: BorrowedFd<'_>) -> Result<Raw> {
        let terminal = terminal
            .try_clone_to_owned()
            .attempt(|| "duplicate the terminal".into())?;
        let before = tcgetattr(&terminal).attempt(|| "read the terminal's modes".into())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).attempt(|| "switch the terminal to raw mode".into())?;
        Ok(Raw { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs no modes.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// The first of the descriptors that is a terminal.
pub fn first<'a>(descriptors: impl IntoIterator<Item = BorrowedFd<'a>>) -> Option<BorrowedFd<'a>> {
    descriptors.into_iter().find(|fd| isatty(fd).unwrap_or(false))
}

/// Rows and columns; `None` where nobody has set them.
pub fn size(terminal: BorrowedFd<'_>) -> Option<Size> {
    let size = sys::window_size(terminal).ok()?;
    (size.rows != 0 && size.columns != 0).then_some(size)
}

/// Connects to an engine's console socket.
pub fn connect(path: &Path) -> Result<UnixStream> {
    base::socket::connect(path).attempt(|| "open the console socket".into())
}

/// Makes a terminal, gives its master to the engine, and makes the other side our controlling terminal, in raw mode: window sizes
/// then come as SIGWINCH, and the engine's hanging up as SIGHUP.
pub fn offer(socket: &UnixStream, size: Option<Size>) -> Result<OwnedFd> {
    let what = || "make a terminal".to_owned();
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).attempt(what)?;
    grantpt(&master).attempt(what)?;
    unlockpt(&master).attempt(what)?;
    let name = ptsname_r(&master).attempt(what)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let slave = open(name.as_str(), flags, Mode::empty()).attempt(|| format!("open terminal {name}"))?;
    let mut modes = tcgetattr(&slave).attempt(what)?;
    cfmakeraw(&mut modes);
    tcsetattr(&slave, SetArg::TCSANOW, &modes).attempt(what)?;
    if let Some(size) = size {
        sys::resize(slave.as_fd(), size).attempt(what)?;
    }
    match setsid() {
        // Already the leader of a session.
        Ok(_) | Err(nix::Error::EPERM) => {}
        Err(e) => return Err(Error::new(Kind::Io, "start a session").because(e)),
    }
    sys::control(slave.as_fd()).attempt(|| format!("take {name} as controlling terminal"))?;
    let fds = [master.as_raw_fd()];
    let payload = [IoSlice::new(name.as_bytes())];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &payload, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .attempt(|| "send the terminal over the console socket".into())?;
    Ok(slave)
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let pair = openpty(None, None).unwrap();
        let cooked = |when: &str| {
            let flags = tcgetattr(&pair.slave).unwrap().local_flags;
            assert!(flags.contains(LocalFlags::ICANON | LocalFlags::ECHO), "{when}");
        };
        cooked("at first");
        let raw = Raw::enter(pair.slave.as_fd()).unwrap();
        let flags = tcgetattr(&pair.slave).unwrap().local_flags;
        assert!(!flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        drop(raw);
        cooked("at last");
    }

    #[test]
    fn a_size_that_nobody_set_is_none() {
        let pair = openpty(None, None).unwrap();
        assert_eq!(size(pair.slave.as_fd()), None);
        let want = Size { rows: 31, columns: 97 };
        sys::resize(pair.master.as_fd(), want).unwrap();
        assert_eq!(size(pair.slave.as_fd()), Some(want));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            first([null.as_fd(), pair.slave.as_fd()]).map(|fd| fd.as_raw_fd()),
            Some(pair.slave.as_raw_fd())
        );
    }
}
