// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A pseudoterminal with a program on it, and the receiving end of `--console-socket`.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::command::deadline;

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);

/// The master's side, with all that was printed so far.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    /// A fresh pair: ours, and the one for a child's stdio.
    pub fn open(rows: u16, columns: u16) -> (Terminal, OwnedFd) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).expect("open a pseudoterminal");
        (
            Terminal {
                master: File::from(pair.master),
                seen: String::new(),
            },
            pair.slave,
        )
    }

    /// Takes the master that a runtime sends to a console socket.
    pub fn receive(listener: &UnixListener) -> Terminal {
        let (stream, _) = listener.accept().expect("the runtime connects to the console socket");
        let mut name = [0; 4096];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut slices = [IoSliceMut::new(&mut name)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty());
        let message = message.expect("receive the terminal");
        let fd = message
            .cmsgs()
            .expect("control messages")
            .find_map(|control| match control {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            });
        // SAFETY: the kernel has just put this descriptor into our table for us.
        let master = unsafe { File::from_raw_fd(fd.expect("one descriptor")) };
        Terminal {
            master,
            seen: String::new(),
        }
    }

    /// Listens where a runtime is told to connect.
    pub fn socket(path: &Path) -> UnixListener {
        base::socket::listen(path).expect("listen on the console socket")
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Changes the window.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: `size` lives for the call, which only reads it.
        unsafe { set_size(self.master.as_raw_fd(), &raw const size) }.expect("set the window's size");
    }

    /// Reads until `text` was printed since the last call; returns what came before it, and forgets both.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + text.len());
                return before;
            }
            assert!(
                start.elapsed() < deadline(),
                "{text:?} was not printed: {:?}",
                self.seen
            );
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(200_u8)).unwrap_or(0) == 0 {
                continue;
            }
            let mut bytes = [0; 4096];
            match self.master.read(&mut bytes) {
                Ok(0) => panic!("the terminal was closed before {text:?}: {:?}", self.seen),
                Ok(n) => {
                    self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
                    // Until the runtime has made it raw, the host's terminal adds a carriage return of its own.
                    self.seen = self.seen.replace("\r\r\n", "\r\n");
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("{e} before {text:?}: {:?}", self.seen),
            }
        }
    }
}
