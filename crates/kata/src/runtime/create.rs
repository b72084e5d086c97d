// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `create` and `run`: a straight line of guards. Until the end, dropping them undoes everything; killing us does, too, for the
//! monitor holds the other end of the lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api::task::api::{CreateTaskRequest, CreateTaskResponse, Mount, StartRequest, StartResponse};
use base::{Context, Error, Kind, Result};
use oci::spec::Process;
use oci::{Bundle, Moment, State, Status};
use protobuf::well_known_types::any::Any;

use super::arguments::{CreateArgs, RunArgs};
use super::container::Container;
use super::lease::{self, Lease};
use super::{Globals, delete, exec, hook};
use crate::link::{Link, TASK};
use crate::settings;
use crate::shim::{Carry, Launch, Pids, Size, Stdio, Streams};
use crate::{berth, cgroup};

pub fn create(globals: &Globals, args: &CreateArgs) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    check_terminal(bundle.terminal(), true, args.console_socket.is_some())?;
    warn_of_descriptors(args.preserve_fds);
    let made = Made::new(globals, &args.id, &bundle, Given::default(), &|_| Ok(()))?;
    let launch = made.launch(args.console_socket.clone());
    made.leave(launch, args.pid_file.as_deref()).map(|_| ())
}

/// The answer is the container's exit code, 0 when detached.
pub fn run(globals: &Globals, args: &RunArgs) -> Result<u8> {
    let create = &args.create;
    let bundle = Bundle::open(&create.bundle)?;
    check_terminal(bundle.terminal(), args.detach, create.console_socket.is_some())?;
    warn_of_descriptors(create.preserve_fds);
    let made = Made::new(globals, &create.id, &bundle, Given::default(), &|_| Ok(()))?;
    let pid_file = create.pid_file.as_deref();
    if args.detach {
        let launch = made.launch(create.console_socket.clone());
        return made.detach(launch, pid_file, |_| ()).map(|()| 0);
    }
    let stdio = Stdio::inherited(bundle.terminal())?;
    made.attend(stdio, pid_file, args.keep, |_| ())
}

/// What a caller has for a container beside its bundle.
#[derive(Debug, Default)]
pub struct Given {
    /// Mounted by the monitor in place of the bundle's root.
    pub rootfs: Vec<Mount>,
    /// Of its process.
    pub streams: Streams,
    /// It only holds namespaces for others; of its bundle's root nothing is used.
    pub pause: bool,
}

/// A container that is made in the guest and not yet known outside.
#[derive(Debug)]
pub struct Made<'a> {
    globals: &'a Globals,
    bundle: &'a Bundle,
    id: String,
    dir: PathBuf,
    lease: Lease,
}

impl<'a> Made<'a> {
    /// Makes it, in a sandbox of its own or in the one that its spec or its annotations name. `watch` is shown the lease before the
    /// long part. Errors: `Exists` when the id is taken, else what the monitor met.
    pub fn new(
        globals: &'a Globals,
        id: &str,
        bundle: &'a Bundle,
        given: Given,
        watch: &dyn Fn(&Lease) -> Result<()>,
    ) -> Result<Made<'a>> {
        base::id::check(id)?;
        cgroup::announce();
        for line in settings::admit(&globals.settings, bundle)? {
            log::warn!("{line}");
        }
        bundle.overrides()?;
        let lease = match lease::take(globals, id, bundle) {
            Err(e) if e.kind() == Kind::Exists => {
                return Err(Error::new(Kind::Exists, "container with given ID already exists"));
            }
            other => other?,
        };
        watch(&lease)?;
        let made = Made {
            globals,
            bundle,
            id: id.to_owned(),
            dir: globals.root.join(id),
            lease,
        };
        let terminal = bundle.terminal();
        let [input, output, error] = exec::places(given.streams, terminal);
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.dir().to_string_lossy().into_owned(),
            rootfs: given.rootfs,
            terminal,
            stdin: input.to_owned(),
            stdout: output.to_owned(),
            stderr: error.to_owned(),
            options: given.pause.then(pause).into(),
            ..CreateTaskRequest::default()
        };
        made.link()?.call::<CreateTaskResponse>(TASK, "Create", &request)?;
        Ok(made)
    }

    /// The directory of the sandbox that it lives in.
    pub fn sandbox(&self) -> PathBuf {
        berth::sandbox(&self.dir)
    }

    fn link(&self) -> Result<Link> {
        Link::open(&self.sandbox())
    }

    /// A shim for its process, with our standard streams or a console's.
    pub fn launch(&self, console: Option<PathBuf>) -> Launch {
        Launch {
            dir: self.dir.clone(),
            id: self.id.clone(),
            exec_id: String::new(),
            command: self.bundle.process().map(exec::command).unwrap_or_default(),
            pids: Pids::of(self.bundle),
            terminal: self.bundle.terminal(),
            console,
            size: self.bundle.process().and_then(console_size),
            log: self.globals.log.clone(),
            record: None,
            stdio: None,
        }
    }

    /// Leaves it, created, to its shim and its monitor. The answer is the shim's pid.
    pub fn leave(self, launch: Launch, pid_file: Option<&Path>) -> Result<u32> {
        let shim = launch.start()?;
        let pid = shim.pid();
        self.finish(pid_file, pid)?;
        shim.release();
        self.lease.release()?;
        Ok(pid)
    }

    /// Starts its process, which lives on with its shim. `started` is called once it runs.
    pub fn detach(self, launch: Launch, pid_file: Option<&Path>, started: impl FnOnce(&Path)) -> Result<()> {
        let shim = launch.start()?;
        let state = self.finish(pid_file, shim.pid())?;
        start(&mut self.link()?, &self.id)?;
        hook::run_on(self.bundle, Moment::Poststart, &state);
        started(&self.sandbox());
        shim.release();
        self.lease.release()
    }

    /// Starts its process and carries it in this one to its end; the answer is its exit code. Then it is deleted, unless it is to
    /// be kept. `started` is called once it runs.
    pub fn attend(self, stdio: Stdio, pid_file: Option<&Path>, keep: bool, started: impl FnOnce(&Path)) -> Result<u8> {
        let state = self.finish(pid_file, std::process::id())?;
        let carry = Carry {
            dir: self.sandbox(),
            id: self.id.clone(),
            exec_id: String::new(),
            start: true,
            stdio,
        };
        let code = carry.run(|| {
            hook::run_on(self.bundle, Moment::Poststart, &state);
            started(&self.sandbox());
            Ok(())
        })?;
        if keep {
            self.lease.release()?;
            return Ok(code);
        }
        // From here the container is deleted as any other; a lease that was not released keeps the monitor.
        let lease = self.lease;
        delete::delete_then(self.globals, &self.id, true, move || drop(lease))?;
        Ok(code)
    }

    /// Hooks, record, pid file.
    fn finish(&self, pid_file: Option<&Path>, pid: u32) -> Result<State> {
        let annotations = self.bundle.annotations().cloned().unwrap_or_default();
        let state = State {
            oci_version: self.bundle.spec().version().clone(),
            id: self.id.clone(),
            pid,
            status: Status::Created,
            bundle: self.bundle.dir().to_owned(),
            rootfs: self.bundle.rootfs().to_owned(),
            created: oci::state::timestamp(SystemTime::now().into()),
            annotations: annotations.into_iter().collect::<BTreeMap<_, _>>(),
            owner: String::new(),
        };
        hook::run(self.bundle, Moment::Prestart, &state)?;
        hook::run(self.bundle, Moment::CreateRuntime, &state)?;
        Container::record(&self.dir, &state)?;
        write_pid(pid_file, pid)?;
        Ok(state)
    }
}

fn pause() -> Any {
    Any {
        type_url: api::pause::OPTIONS.to_owned(),
        ..Any::default()
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
