// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata device`: the file system and the vsock device of one sandbox, served to the hypervisor over vhost-user.
//!
//! It parses guest bytes all day, so it is jailed before the first one comes: the share is its root directory, in a mount namespace
//! of its own that follows the monitor's mounts; it has the capabilities that a file server needs and no others, and can gain none.
//! It ends when the hypervisor hangs up, and dies with the monitor.

mod jail;
mod seccomp;
mod sys;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use base::{Context, Error, Kind, Result};
use devices::fs::{Fs, Share};
use devices::process::Arguments;
use devices::vsock::{Dial, Vsock};
use log::LevelFilter;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Descriptors that the guest's files leave to us: sockets of the vsock device above all.
const RESERVE: u64 = 4096;
/// With so many descriptors, files need not be known by handle, which takes a strong privilege.
const ENOUGH: u64 = 256 << 10;
/// Bytes of a control thread's stack; what it has not touched costs nothing.
const STACK: usize = 256 << 10;

/// `args` as [`Arguments::words`] writes them.
pub fn main(args: &[OsString]) -> ExitCode {
    let started = base::log::start("device", None, base::log::Format::Text, LevelFilter::Warn);
    let arguments = Arguments::parse(args).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            "`kata device` is started by the monitor; its arguments make no sense",
        )
    });
    match started.and(arguments).and_then(|arguments| serve(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn listener(number: i32) -> Result<UnixListener> {
    let fd: OwnedFd = base::inherited::take(number)?;
    Ok(UnixListener::from(fd))
}

fn serve(arguments: &Arguments) -> Result<()> {
    let (fs, vsock, hybrid) = (
        listener(arguments.fs)?,
        listener(arguments.vsock)?,
        listener(arguments.hybrid)?,
    );
    let record: Option<OwnedFd> = arguments.record.map(base::inherited::take).transpose()?;
    jail::follow_parent()?;
    sys::spare_memory();
    let limit = jail::raise_descriptor_limit()?;
    let handles = limit < ENOUGH;
    let descriptors = File::open("/proc/self/fd").attempt(|| "open /proc/self/fd".into())?;
    jail::enter(&arguments.share, &arguments.dir)?;
    let files = Fs::new(Share {
        root: Path::new("/"),
        tag: &arguments.tag,
        mounts: jail::mount_table(&descriptors)?,
        descriptors,
        most_files: limit.saturating_sub(RESERVE),
        handles,
        read_only: false,
        record: record.map(File::from),
    });
    let files = files.attempt(|| "share the directory".into())?;
    let name = arguments.name.clone();
    let dial: Dial = Box::new(move |port| dial(&format!("{name}_{port}")));
    let sockets = Vsock::new(arguments.cid, hybrid, dial).attempt(|| "make the vsock device".into())?;
    jail::drop_privileges(handles)?;
    seccomp::confine()?;
    let (report, ended) = mpsc::channel();
    let other = report.clone();
    spawn("vsock-control", move || {
        // The receiver is gone when the process ends.
        let _ = other.send(vhost_user::accept("vsock", &vsock, Box::new(sockets)));
    })?;
    spawn("fs-control", move || {
        let _ = report.send(vhost_user::accept("fs", &fs, Box::new(files)));
    })?;
    // One device without the other is of no use: whichever the hypervisor lets go of first.
    ended
        .recv()
        .unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the threads of both devices panicked")))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
    thread.map(drop).attempt(|| format!("start thread {name}"))
}

/// Reaches a listener of the sandbox's directory, where we are. Errors: also when it is too busy to take one more at once.
fn dial(name: &str) -> std::io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(name)?)?;
    Ok(UnixStream::from(socket))
}
