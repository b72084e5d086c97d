// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Starts the monitor of a sandbox. Until the lease is released, the monitor takes everything down as soon as we end, in whatever way.
//!
//! ```text
//! runtime                          monitor (kata monitor --root=… --id=… --bundle=… --lease-fd=N …)
//!    │ ◄──── "ready\n" | "error KIND: why\n" ────│   (its socket listens | it has undone everything and ends)
//!    │ ───────────── "release\n" ──────────────► │   (the sandbox lives on its own)
//!    └ ───────────────── EOF ──────────────────► │   (undo everything, end)
//! ```

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use oci::Bundle;

use super::{Globals, delete};
use crate::shim::parse_refusal;
use crate::standby;

/// See the module.
#[derive(Debug)]
pub struct Lease {
    socket: UnixStream,
    monitor: Pidfd,
    /// It is to be reaped by us; one that waited is not.
    child: Option<Child>,
    /// Of the sandbox.
    dir: PathBuf,
    held: bool,
}

/// How long a monitor may take to undo everything.
const UNDOING: Duration = Duration::from_secs(60);

impl Lease {
    /// For whoever may have to cut it from elsewhere.
    pub fn socket(&self) -> Result<UnixStream> {
        self.socket.try_clone().attempt(|| "duplicate the lease".into())
    }

    /// The sandbox lives on without us.
    pub fn release(mut self) -> Result<()> {
        self.socket
            .write_all(b"release\n")
            .context(Kind::Gone, || "release the sandbox to its monitor".into())?;
        self.held = false;
        Ok(())
    }

    /// Has the monitor take everything down, and waits for that.
    fn give_up(&mut self) -> Result<()> {
        let _ = self.socket.shutdown(Shutdown::Both);
        if !self.monitor.wait(Some(UNDOING))? {
            log::error!(
                "the monitor, process {}, does not end: it is killed",
                self.monitor.pid()
            );
            self.monitor.kill()?;
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
        // Of a monitor that could not do it itself.
        delete::sweep(&self.dir)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held
            && let Err(e) = self.give_up()
        {
            log::warn!("{}", e.chain());
        }
    }
}

/// Takes a monitor whose machine waits, or starts one for `id`, and waits until it serves. Errors: the monitor's; `Exists` when the id is taken.
pub fn spawn(globals: &Globals, id: &str, bundle: &Bundle) -> Result<Lease> {
    if let Some(taken) = standby::take(globals, id, bundle) {
        return Ok(Lease {
            socket: taken.lease,
            monitor: taken.monitor,
            child: None,
            dir: globals.root.join(id),
            held: true,
        });
    }
    let what = || format!("start the monitor of {id}");
    let (ours, theirs) = UnixStream::pair().attempt(what)?;
    let theirs = OwnedFd::from(theirs);
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).attempt(what)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kata").arg("monitor");
    for (name, value) in [
        ("root", globals.root.as_os_str()),
        ("id", id.as_ref()),
        ("bundle", bundle.dir().as_os_str()),
        ("lease-fd", theirs.as_raw_fd().to_string().as_ref()),
    ] {
        let mut word = std::ffi::OsString::from(format!("--{name}="));
        word.push(value);
        command.arg(word);
    }
    if globals.systemd_cgroup {
        command.arg("--systemd-cgroup=true");
    }
    command.args(globals.log.arguments());
    let null = || Stdio::null();
    let mut child = command
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        .attempt(what)?;
    drop(theirs);
    let pid = i32::try_from(child.id()).context(Kind::Bug, || "read a pid".into())?;
    let monitor = Pidfd::open(pid)?;
    let mut line = String::new();
    let read = BufReader::new(&ours).read_line(&mut line);
    read.attempt(|| "wait for the monitor".into())?;
    match line.trim_end() {
        "ready" => Ok(Lease {
            socket: ours,
            monitor,
            child: Some(child),
            dir: globals.root.join(id),
            held: true,
        }),
        other => {
            let _ = child.wait();
            let refused = other.strip_prefix("error ").and_then(parse_refusal);
            Err(refused.unwrap_or_else(|| Error::new(Kind::Gone, what()).because("it ended at once")))
        }
    }
}
