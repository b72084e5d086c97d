// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata device`: the file system and the vsock device of one sandbox, served to the hypervisor over vhost-user.
//!
//! It parses guest bytes all day, so it is jailed before the first one comes: the share is its root directory, in a mount namespace
//! of its own that follows the monitor's mounts; it has the capabilities that a file server needs and no others, and can gain none.
//! It ends when the hypervisor hangs up, and dies with the monitor.

mod jail;
mod sys;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use base::{Context, Error, Kind, Result};
use devices::fs::Fs;
use devices::process::Arguments;
use devices::vsock::{Dial, Vsock};
use log::LevelFilter;

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
    let fd: OwnedFd = sys::inherited(number).attempt(|| format!("take over descriptor {number}"))?;
    Ok(UnixListener::from(fd))
}

fn serve(arguments: &Arguments) -> Result<()> {
    let (fs, vsock, hybrid) = (
        listener(arguments.fs)?,
        listener(arguments.vsock)?,
        listener(arguments.hybrid)?,
    );
    jail::raise_descriptor_limit()?;
    // Guest programs dial relative to the working directory, which stays the sandbox's when the root changes.
    std::env::set_current_dir(&arguments.dir).attempt(|| format!("enter {}", arguments.dir.display()))?;
    let descriptors = File::open("/proc/self/fd").attempt(|| "open /proc/self/fd".into())?;
    jail::enter(&arguments.share)?;
    let mounts = jail::mount_table(&descriptors)?;
    let name = arguments.name.clone();
    let dial: Dial = Box::new(move |port| UnixStream::connect(format!("{name}_{port}")));
    let files =
        Fs::new(Path::new("/"), &arguments.tag, descriptors, mounts).attempt(|| "share the directory".into())?;
    let sockets = Vsock::new(arguments.cid, hybrid, dial).attempt(|| "make the vsock device".into())?;
    jail::drop_privileges()?;
    let vsock = thread::Builder::new()
        .name("vsock-control".into())
        .spawn(move || vhost_user::accept("vsock", &vsock, Box::new(sockets)))
        .attempt(|| "start the vsock device's thread".into())?;
    let served = vhost_user::accept("fs", &fs, Box::new(files));
    let other = vsock
        .join()
        .unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the vsock device's thread panicked")));
    served.and(other)
}
