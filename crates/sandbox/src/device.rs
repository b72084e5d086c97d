// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The process that serves the file system and vsock of a machine which has none of its own (`kata device`): its start, and its end
//! with its owner.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::pidfd::Pidfd;
use base::{Context, Result};
use devices::process::Arguments;
use machine::process::{self, Owned};
use machine::tail::Tail;
use machine::{ShareSpec, VsockSpec};

use crate::share::TAG;

/// Its sockets, below the sandbox's directory.
const FS: &str = "fs.sock";
const VSOCK: &str = "vsock-vu.sock";
/// Where host programs ask for ports of the guest.
pub const HYBRID: &str = "vsock.sock";
/// Every guest is alone on its bus.
const CID: u32 = 3;

/// The devices, for a machine.
pub fn specs() -> (ShareSpec, VsockSpec) {
    let share = ShareSpec {
        tag: TAG.to_owned(),
        socket: FS.into(),
    };
    let vsock = VsockSpec {
        cid: CID,
        socket: VSOCK.into(),
        hybrid: HYBRID.into(),
    };
    (share, vsock)
}

/// The running process; killed on drop.
#[derive(Debug)]
pub struct DeviceProcess {
    process: Owned,
    start_time: u64,
    stderr: Tail,
}

impl DeviceProcess {
    /// Starts `program device …` for the sandbox in `dir`; `record` is [`devices::fs::Share::record`]. Its sockets listen when this returns:
    /// nobody has to wait for it.
    pub fn start(program: &Path, dir: &Path, share: &Path, record: Option<&File>) -> Result<DeviceProcess> {
        let (fs, vsock, hybrid) = (listen(dir, FS)?, listen(dir, VSOCK)?, listen(dir, HYBRID)?);
        let arguments = Arguments {
            dir: dir.to_owned(),
            share: share.to_owned(),
            tag: TAG.to_owned(),
            fs: fs.as_raw_fd(),
            vsock: vsock.as_raw_fd(),
            hybrid: hybrid.as_raw_fd(),
            name: HYBRID.to_owned(),
            cid: CID,
            record: record.map(AsRawFd::as_raw_fd),
        };
        let (ours, theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
        let mut command = Command::new(program);
        std::os::unix::process::CommandExt::arg0(&mut command, "kata");
        command.arg("device").args(arguments.words());
        command.current_dir(dir).env_clear();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(theirs));
        let mut keep = vec![fs.as_fd(), vsock.as_fd(), hybrid.as_fd()];
        keep.extend(record.map(AsFd::as_fd));
        let child = process::spawn(&mut command, &keep, None).attempt(|| "start the device process".into())?;
        let process = Owned::of(child)?;
        Ok(DeviceProcess {
            start_time: process::start_time(process.pidfd().pid())?,
            process,
            stderr: Tail::of(ours)?,
        })
    }

    /// Readable when it has ended.
    pub fn process(&self) -> &Pidfd {
        self.process.pidfd()
    }

    /// Names it for ever, with its pid.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Why it ended, if it did not just follow its machine.
    pub fn cause(&self) -> Option<String> {
        let ending = process::ending(self.process.pidfd()).filter(|ending| ending != "exited with status 0")?;
        let said = self.stderr.text();
        let last = said.lines().last().unwrap_or_default();
        Some(match last {
            "" => format!("the device process {ending}"),
            last => format!("the device process {ending}: {last}"),
        })
    }
}

fn listen(dir: &Path, name: &str) -> Result<OwnedFd> {
    base::socket::listen(&dir.join(name)).map(OwnedFd::from)
}

/// Removes the sockets of a machine that has ended, so that another can be started.
pub fn clear(dir: &Path) {
    let sockets = [FS, VSOCK, HYBRID].map(|name| dir.join(name));
    for path in sockets.into_iter().chain([knock(dir)]) {
        // One that is not there does not matter; one that stays is told by whoever wants its name.
        let _ = std::fs::remove_file(path);
    }
}

/// Where the guest knocks when it is up.
pub fn knock(dir: &Path) -> PathBuf {
    dir.join(format!("{HYBRID}_{}", api::port::CONTROL))
}
