// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Takes a place for a container that is to be made: in a sandbox that is there, or in one of its own, whose monitor is started. Until
//! the lease is released, the monitor takes the container away as soon as we end, in whatever way.
//!
//! ```text
//! runtime                          monitor (kata monitor --root=… --id=… --bundle=… --lease-fd=N …)
//!    │ ───────────────── "ID\n" ───────────────► │   (only to a monitor that is there, at its lease.sock)
//!    │ ◄──── "ready\n" | "error KIND: why\n" ────│   (the container has a directory and is expected | nothing of it is left)
//!    │ ───────────── "release\n" ──────────────► │   (the container lives on its own)
//!    └ ───────────────── EOF ──────────────────► │   (undo the container; without another one, end)
//!      ◄──────────────── "undone\n" ────────────│
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci::Bundle;

use super::{Globals, join};
use crate::shim::parse_refusal;
use crate::{berth, cgroup, settings, standby};

/// Where a monitor gives leases, in the sandbox's directory.
pub const SOCKET: &str = "lease.sock";
/// The word that lets the container live on its own.
pub const RELEASE: &[u8] = b"release\n";
/// The word that says that nothing of it is left.
pub const UNDONE: &[u8] = b"undone\n";

/// See the module.
#[derive(Debug)]
pub struct Lease {
    socket: UnixStream,
    /// Unless the container joins a sandbox that was there.
    monitor: Option<Pidfd>,
    /// It is to be reaped by us; one that waited is not.
    child: Option<Child>,
    /// Of the container.
    dir: PathBuf,
    held: bool,
}

/// How long a monitor may take to undo everything.
const UNDOING: Duration = Duration::from_secs(60);
/// How long a sandbox that is ending may hold a network namespace; and another creator one that it has claimed first.
const CHANGING: Duration = Duration::from_secs(20);

impl Lease {
    /// For whoever may have to cut it from elsewhere.
    pub fn socket(&self) -> Result<UnixStream> {
        self.socket.try_clone().attempt(|| "duplicate the lease".into())
    }

    /// The container lives on without us.
    pub fn release(mut self) -> Result<()> {
        self.socket
            .write_all(RELEASE)
            .context(Kind::Gone, || "release the container to its monitor".into())?;
        self.held = false;
        Ok(())
    }

    /// Has the monitor take the container away, and waits for that.
    fn give_up(&mut self) -> Result<()> {
        let _ = self.socket.shutdown(Shutdown::Write);
        // Others may have joined: then it lives on.
        if undone(&self.socket)? {
            return Ok(());
        }
        if let Some(monitor) = &self.monitor {
            end(monitor)?;
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
        // Of a monitor that could not do it itself.
        berth::clear(&self.dir)
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

/// True when the monitor says so; false when it has ended before.
fn undone(mut socket: &UnixStream) -> Result<bool> {
    let what = || "wait for the monitor to undo a container".to_owned();
    socket.set_read_timeout(Some(UNDOING)).attempt(what)?;
    let mut word = Vec::new();
    // A connection that breaks is an end, too.
    match socket.read_to_end(&mut word) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(Error::new(Kind::Timeout, what())),
        _ => Ok(word.ends_with(UNDONE)),
    }
}

/// Waits for it.
fn end(monitor: &Pidfd) -> Result<()> {
    if !monitor.wait(Some(UNDOING))? {
        log::error!("the monitor, process {}, does not end: it is killed", monitor.pid());
        monitor.kill()?;
    }
    Ok(())
}

/// Takes a place for container `id`. Errors: the monitor's; `Exists` when the id is taken.
pub fn take(globals: &Globals, id: &str, bundle: &Bundle) -> Result<Lease> {
    let begin = Instant::now();
    loop {
        let home = join::sandbox(globals, bundle)?;
        let (taken, passing) = match &home {
            Some(home) => (enter(globals, id, bundle, home), Kind::Gone),
            None => (spawn(globals, id, bundle), Kind::State),
        };
        match taken {
            // The sandbox ends, and lets go of the namespace; or another creator has just claimed that.
            Err(e) if e.kind() == passing && begin.elapsed() < CHANGING => {
                log::debug!("{}", e.chain());
                std::thread::sleep(Duration::from_millis(10));
            }
            taken => return taken,
        }
    }
}

/// Takes a place in the sandbox `home`. Errors: `Gone` when that ends.
fn enter(globals: &Globals, id: &str, bundle: &Bundle, home: &Path) -> Result<Lease> {
    let what = || format!("join the sandbox {}", home.display());
    let socket = base::socket::connect(&home.join(SOCKET)).context(Kind::Gone, what)?;
    writeln!(&socket, "{id}").context(Kind::Gone, what)?;
    let lease = match ready(&socket)? {
        Some(answer) => answer.attempt(what).map(|()| Lease {
            socket,
            monitor: None,
            child: None,
            dir: globals.root.join(id),
            held: true,
        })?,
        None => return Err(Error::new(Kind::Gone, what()).because("its monitor has ended")),
    };
    let (place, named) = cgroup::Place::wanted(bundle, id, globals.systemd_cgroup)?;
    match cgroup::prepare(&place, &lease.dir) {
        Err(e) if !named => {
            log::warn!(
                "the container's shim stays in the control group of its caller: {}",
                e.chain()
            );
            cgroup::forget(&lease.dir)?;
        }
        other => other.context(Kind::Io, || format!("control group of {id}"))?,
    }
    Ok(lease)
}

/// What the monitor answers; none when it ends without a word.
fn ready(socket: &UnixStream) -> Result<Option<Result<()>>> {
    let mut line = String::new();
    let read = BufReader::new(socket).read_line(&mut line);
    read.attempt(|| "wait for the monitor".into())?;
    Ok(match line.trim_end() {
        "ready" => Some(Ok(())),
        other => other.strip_prefix("error ").and_then(parse_refusal).map(Err),
    })
}

/// Takes a monitor whose machine waits, or starts one for `id`, and waits until it serves.
fn spawn(globals: &Globals, id: &str, bundle: &Bundle) -> Result<Lease> {
    if let Some(taken) = standby::take(globals, id, bundle) {
        return Ok(Lease {
            socket: taken.lease,
            monitor: Some(taken.monitor),
            child: None,
            dir: globals.root.join(id),
            held: true,
        });
    }
    let what = || format!("start the monitor of {id}");
    let (ours, theirs) = UnixStream::pair().attempt(what)?;
    let theirs = OwnedFd::from(theirs);
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
    if let Some(wish) = &globals.user_network {
        let json = serde_json::to_string(wish).context(Kind::Bug, || "write the network that is wanted".into())?;
        command.arg(format!("--user-network={json}"));
    }
    command.args(globals.log.arguments());
    settings::pass(&globals.settings.selection, &mut command);
    let null = || Stdio::null();
    command.stdin(null()).stdout(null()).stderr(null());
    let mut child = base::inherited::spawn(&mut command, &[theirs.as_fd()]).attempt(what)?;
    drop(theirs);
    let pid = i32::try_from(child.id()).context(Kind::Bug, || "read a pid".into())?;
    let monitor = Pidfd::open(pid)?;
    match ready(&ours)? {
        Some(Ok(())) => Ok(Lease {
            socket: ours,
            monitor: Some(monitor),
            child: Some(child),
            dir: globals.root.join(id),
            held: true,
        }),
        refused => {
            let _ = child.wait();
            let gone = || Error::new(Kind::Gone, what()).because("it ended at once");
            Err(refused.and_then(Result::err).unwrap_or_else(gone))
        }
    }
}
