// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What whoever wants a machine tells it: all that a monitor has from its command line and from the process that starts it.
//! One message over the machine's door; from then on the lease is all that is spoken on, as with a monitor that was started.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};
use config::Selection;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use sandbox::passt::Wish;
use serde::{Deserialize, Serialize};

use crate::shim::Log;

/// More than a few paths and ports, an id and a list of control groups are no request.
const MOST: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    pub root: PathBuf,
    pub id: String,
    pub bundle: PathBuf,
    pub systemd_cgroup: bool,
    pub log_file: Option<PathBuf>,
    pub log_json: bool,
    pub log_debug: bool,
    /// The caller's control groups, as `/proc/self/cgroup` has them: specs name groups that are relative to them.
    pub groups: String,
    /// The caller's readiness to be killed for want of memory.
    pub oom_score: String,
    /// A user-mode network, in the caller's network namespace.
    pub user_network: Option<Wish>,
    /// Which configuration the caller has.
    pub selection: Selection,
}

impl Words {
    pub fn log(&self) -> Log {
        Log {
            file: self.log_file.clone(),
            json: self.log_json,
            debug: self.log_debug,
        }
    }
}

/// The words, and what goes with them.
#[derive(Debug)]
pub struct Request {
    pub words: Words,
    pub lease: OwnedFd,
    /// The caller's mount namespace.
    pub mounts: OwnedFd,
    /// The caller's root directory.
    pub root: OwnedFd,
    /// The caller's network namespace.
    pub network: OwnedFd,
}

impl Request {
    pub fn send(&self, door: &UnixStream) -> Result<()> {
        let what = || "ask for a machine that waits".to_owned();
        let mut text = serde_json::to_vec(&self.words).context(Kind::Unsupported, what)?;
        text.push(b'\n');
        let descriptors = [&self.lease, &self.mounts, &self.root, &self.network].map(AsRawFd::as_raw_fd);
        let sent = sendmsg::<UnixAddr>(
            door.as_raw_fd(),
            &[IoSlice::new(&text)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        let sent = sent.context(Kind::Gone, what)?;
        let mut door = door;
        door.write_all(&text[sent..]).context(Kind::Gone, what)
    }

    /// Errors: whoever called has gone, or makes no sense.
    pub fn receive(door: &UnixStream) -> Result<Request> {
        let what = || "read what is asked of a machine that waits".to_owned();
        let mut first = [0; 4096];
        let mut space = nix::cmsg_space!([i32; 4]);
        let (length, descriptors) = {
            let mut buffers = [IoSliceMut::new(&mut first)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<UnixAddr>(door.as_raw_fd(), &mut buffers, Some(&mut space), flags)
                .context(Kind::Gone, what)?;
            let mut descriptors = Vec::new();
            for control in message.cmsgs().context(Kind::Invalid, what)? {
                if let ControlMessageOwned::ScmRights(numbers) = control {
                    descriptors.extend(numbers.into_iter().map(super::sys::received));
                }
            }
            (message.bytes, descriptors)
        };
        let mut text = first[..length].to_vec();
        let mut byte = [0];
        while text.last() != Some(&b'\n') && text.len() as u64 <= MOST {
            let mut door = door;
            door.read_exact(&mut byte).context(Kind::Gone, what)?;
            text.push(byte[0]);
        }
        let words = serde_json::from_slice(&text).context(Kind::Invalid, what)?;
        let Ok([lease, mounts, root, network]) = <[OwnedFd; 4]>::try_from(descriptors) else {
            return Err(Error::new(Kind::Invalid, what()).because("its descriptors are missing"));
        };
        Ok(Request {
            words,
            lease,
            mounts,
            root,
            network,
        })
    }
}

/// A descriptor of `path`, for somebody else.
pub fn handle(path: &str) -> Result<OwnedFd> {
    let file = File::open(path).attempt(|| format!("open {path}"))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_with_its_descriptors() {
        let words = Words {
            root: "/r".into(),
            id: "c1".into(),
            bundle: "/b".into(),
            systemd_cgroup: true,
            log_file: Some("/l".into()),
            log_json: false,
            log_debug: true,
            groups: format!("0::/{}\n", "g".repeat(9000)),
            oom_score: "-500\n".into(),
            user_network: Some(Wish {
                program: "/p".into(),
                ports: Vec::new(),
                host_loopback: true,
            }),
            selection: Selection::default().and("machine.vcpus", "2"),
        };
        let (one, other) = UnixStream::pair().unwrap();
        let (lease, end) = UnixStream::pair().unwrap();
        let request = Request {
            words: words.clone(),
            lease: lease.into(),
            mounts: handle("/proc/self/ns/mnt").unwrap(),
            root: handle("/").unwrap(),
            network: handle("/proc/self/ns/net").unwrap(),
        };
        request.send(&one).unwrap();
        drop(request);
        let got = Request::receive(&other).unwrap();
        assert_eq!(got.words, words);
        UnixStream::from(got.lease).write_all(b"!").unwrap();
        let mut text = String::new();
        let mut end = end;
        end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "!");
        drop(one);
        assert_eq!(Request::receive(&other).unwrap_err().kind(), Kind::Gone);
        let (one, other) = UnixStream::pair().unwrap();
        (&one).write_all(b"{}\n").unwrap();
        assert_eq!(Request::receive(&other).unwrap_err().kind(), Kind::Invalid);
    }
}
