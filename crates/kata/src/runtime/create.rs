// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `create` and `run`: a straight line of guards. Until the end, dropping them undoes everything; killing us does, too, for the
//! monitor holds the other end of the lease.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use api::task::api::{CreateTaskRequest, CreateTaskResponse, StartRequest, StartResponse};
use base::{Context, Error, Kind, Result};
use oci::spec::Process;
use oci::{Bundle, Moment, State, Status};

use super::arguments::{CreateArgs, RunArgs};
use super::container::Container;
use super::exec::STREAM;
use super::lease::{self, Lease};
use super::{Globals, delete, hook};
use crate::link::{Link, TASK};
use crate::shim::{Carry, Launch, Shim, Size, Stdio};

pub fn create(globals: &Globals, args: &CreateArgs) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    check_terminal(bundle.terminal(), true, args.console_socket.is_some())?;
    let made = make(globals, args, &bundle)?;
    let shim = made.shim(globals, args, &bundle)?;
    made.finish(args, &bundle, shim.pid())?;
    shim.release();
    made.lease.release()
}

/// The answer is the container's exit code, 0 when detached.
pub fn run(globals: &Globals, args: &RunArgs) -> Result<u8> {
    let create = &args.create;
    let bundle = Bundle::open(&create.bundle)?;
    check_terminal(bundle.terminal(), args.detach, create.console_socket.is_some())?;
    let made = make(globals, create, &bundle)?;
    if args.detach {
        let shim = made.shim(globals, create, &bundle)?;
        let state = made.finish(create, &bundle, shim.pid())?;
        start(&mut made.link()?, &create.id)?;
        hook::run_on(&bundle, Moment::Poststart, &state);
        shim.release();
        made.lease.release()?;
        return Ok(0);
    }
    let state = made.finish(create, &bundle, std::process::id())?;
    let carry = Carry {
        dir: made.dir.clone(),
        id: create.id.clone(),
        exec_id: String::new(),
        start: true,
        stdio: Stdio::inherited(bundle.terminal())?,
    };
    let code = carry.run(|| {
        hook::run_on(&bundle, Moment::Poststart, &state);
        Ok(())
    })?;
    if args.keep {
        made.lease.release()?;
        return Ok(code);
    }
    // From here the container is deleted as any other; the lease goes with its monitor.
    delete::delete(globals, &create.id, true)?;
    Ok(code)
}

/// A container that is made in the guest and not yet known outside.
#[derive(Debug)]
struct Made {
    id: String,
    dir: std::path::PathBuf,
    lease: Lease,
}

fn make(globals: &Globals, args: &CreateArgs, bundle: &Bundle) -> Result<Made> {
    base::id::check(&args.id)?;
    warn_of_descriptors(args.preserve_fds);
    for key in bundle.overrides()?.unknown {
        log::warn!("annotation {key} is not known and changes nothing");
    }
    let dir = globals.root.join(&args.id);
    let lease = match lease::spawn(&globals.root, &args.id, bundle, &globals.log) {
        Err(e) if e.kind() == Kind::Exists => {
            return Err(Error::new(Kind::Exists, "container with given ID already exists"));
        }
        other => other?,
    };
    let made = Made {
        id: args.id.clone(),
        dir,
        lease,
    };
    let terminal = bundle.terminal();
    let error = if terminal { "" } else { STREAM };
    let request = CreateTaskRequest {
        id: args.id.clone(),
        bundle: bundle.dir().to_string_lossy().into_owned(),
        terminal,
        stdin: STREAM.to_owned(),
        stdout: STREAM.to_owned(),
        stderr: error.to_owned(),
        ..CreateTaskRequest::default()
    };
    made.link()?.call::<CreateTaskResponse>(TASK, "Create", &request)?;
    Ok(made)
}

impl Made {
    fn link(&self) -> Result<Link> {
        Link::open(&self.dir)
    }

    fn shim(&self, globals: &Globals, args: &CreateArgs, bundle: &Bundle) -> Result<Shim> {
        let launch = Launch {
            dir: self.dir.clone(),
            id: self.id.clone(),
            exec_id: String::new(),
            terminal: bundle.terminal(),
            console: args.console_socket.clone(),
            size: bundle.process().and_then(console_size),
            log: globals.log.clone(),
            stdio: None,
        };
        launch.start()
    }

    /// Hooks, record, pid file.
    fn finish(&self, args: &CreateArgs, bundle: &Bundle, pid: u32) -> Result<State> {
        let annotations = bundle.annotations().cloned().unwrap_or_default();
        let state = State {
            oci_version: bundle.spec().version().clone(),
            id: self.id.clone(),
            pid,
            status: Status::Created,
            bundle: bundle.dir().to_owned(),
            rootfs: bundle.rootfs().to_owned(),
            created: oci::state::timestamp(SystemTime::now().into()),
            annotations: annotations.into_iter().collect::<BTreeMap<_, _>>(),
            owner: String::new(),
        };
        hook::run(bundle, Moment::Prestart, &state)?;
        hook::run(bundle, Moment::CreateRuntime, &state)?;
        Container::record(&self.dir, &state)?;
        write_pid(args.pid_file.as_deref(), pid)?;
        Ok(state)
    }
}

fn start(link: &mut Link, id: &str) -> Result<()> {
    let request = StartRequest {
        id: id.to_owned(),
        ..StartRequest::default()
    };
    link.call::<StartResponse>(TASK, "Start", &request).map(|_| ())
}

/// A terminal needs somebody at its other end: an engine behind a console socket, or us in the foreground.
pub fn check_terminal(terminal: bool, detach: bool, socket: bool) -> Result<()> {
    let what = match (terminal, detach, socket) {
        (true, true, false) => "cannot allocate tty if kata-runtime will detach without setting console socket",
        (false, _, true) | (true, false, true) => {
            "cannot use console socket if kata-runtime will not detach or allocate tty"
        }
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, what))
}

/// What the process wants its terminal to measure.
pub fn console_size(process: &Process) -> Option<Size> {
    let size = process.console_size()?;
    let rows = u16::try_from(size.height()).ok()?;
    let columns = u16::try_from(size.width()).ok()?;
    (rows != 0 && columns != 0).then_some(Size { rows, columns })
}

pub fn warn_of_descriptors(count: u32) {
    if count > 0 {
        log::warn!(
            "--preserve-fds={count}: descriptors of the host cannot enter a machine, the process will not have them"
        );
    }
}

/// Decimal, without a newline, whole at once.
pub fn write_pid(file: Option<&Path>, pid: u32) -> Result<()> {
    let Some(file) = file else {
        return Ok(());
    };
    let file = std::path::absolute(file).attempt(|| format!("pid file {}", file.display()))?;
    base::file::replace(&file, pid.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_need_an_other_end() {
        let cases = [
            ((true, true, false), Some("without setting console socket")),
            ((true, true, true), None),
            ((true, false, false), None),
            ((true, false, true), Some("cannot use console socket")),
            ((false, true, true), Some("cannot use console socket")),
            ((false, true, false), None),
            ((false, false, false), None),
        ];
        for ((terminal, detach, socket), why) in cases {
            let got = check_terminal(terminal, detach, socket).map_err(|e| e.chain());
            match (got, why) {
                (Ok(()), None) => {}
                (Err(chain), Some(why)) => assert!(chain.contains(why), "{chain}"),
                other => panic!("{terminal} {detach} {socket}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_pid_file_is_a_bare_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        write_pid(Some(&file), 4711).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"4711");
        write_pid(None, 1).unwrap();
        assert!(write_pid(Some(&dir.path().join("no/pid")), 1).is_err());
    }
}
