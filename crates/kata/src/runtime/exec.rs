// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `exec`: a further process in a container. The shim (or, in the foreground, this process) starts it and carries its streams.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api::task::api::{Empty, ExecProcessRequest};
use base::{Context, Error, Kind, Result};
use oci::Status;
use oci::spec::Process;
use protobuf::well_known_types::any::Any;

use super::arguments::ExecArgs;
use super::container::Container;
use super::{Globals, create, process};
use crate::link::TASK;
use crate::shim::{Carry, Launch, Pids, Stdio, Streams};

/// How containerd marks a process that travels as JSON.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The client dials the stream itself.
const STREAM: &str = "stream:";

/// What the monitor is told of a process's streams, input first. A terminal is one stream, for both ways.
pub fn places(streams: Streams, terminal: bool) -> [&'static str; 3] {
    if terminal {
        return [STREAM, STREAM, ""];
    }
    streams.0.map(|has| if has { STREAM } else { "" })
}

/// The answer is the process's exit code, 0 when detached.
pub fn exec(globals: &Globals, args: &ExecArgs) -> Result<u8> {
    let container = Container::find(&globals.root, &args.id)?;
    check(&container, args.ignore_paused)?;
    create::warn_of_descriptors(args.preserve_fds);
    if let Some(cgroup) = args.cgroup.iter().find(|cgroup| !matches!(cgroup.as_str(), "" | "/")) {
        let what = format!("exec into the sub-cgroup {cgroup:?} is not supported");
        return Err(Error::new(Kind::Unsupported, what));
    }
    let process = match &args.process {
        Some(path) => process::read(path)?,
        None => process::derive(own(&container)?, args)?,
    };
    let terminal = process.terminal().unwrap_or(false);
    create::check_terminal(terminal, args.detach, args.console_socket.is_some())?;
    let pid_file = args.pid_file.as_deref();
    if args.detach {
        let console = args.console_socket.clone();
        return detach(globals, &container, &process, console, None, pid_file).map(|()| 0);
    }
    attend(&container, &process, Stdio::inherited(terminal)?, pid_file)
}

/// The container takes a further process now. Errors: `State`.
pub fn check(container: &Container, ignore_paused: bool) -> Result<()> {
    let what = match container.status()? {
        Status::Stopped | Status::Creating => "cannot exec in a stopped container",
        Status::Paused if !ignore_paused => "cannot exec in a paused container (use --ignore-paused to override)",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::State, what))
}

/// The process of the container's spec.
pub fn own(container: &Container) -> Result<Process> {
    let own = container.bundle()?.process().cloned();
    own.ok_or_else(|| Error::new(Kind::Invalid, "the container has no process"))
}

/// What a process runs.
pub fn command(process: &Process) -> Vec<String> {
    process.args().clone().unwrap_or_default()
}

/// Starts the process, which lives on with its shim; that has our standard streams, a console's, or those given.
pub fn detach(
    globals: &Globals,
    container: &Container,
    process: &Process,
    console: Option<PathBuf>,
    stdio: Option<[OwnedFd; 3]>,
    pid_file: Option<&Path>,
) -> Result<()> {
    let launch = Launch {
        dir: container.dir().to_owned(),
        id: container.id().to_owned(),
        exec_id: register(container, process)?,
        command: command(process),
        pids: Pids::Callers,
        terminal: process.terminal().unwrap_or(false),
        console,
        size: create::console_size(process),
        log: globals.log.clone(),
        record: None,
        stdio: stdio.map(|stdio| stdio.map(Some)),
    };
    let shim = launch.start()?;
    create::write_pid(pid_file, shim.pid())?;
    shim.release();
    Ok(())
}

/// Starts the process and carries it in this one to its end; the answer is its exit code.
pub fn attend(container: &Container, process: &Process, stdio: Stdio, pid_file: Option<&Path>) -> Result<u8> {
    let carry = Carry {
        dir: container.sandbox(),
        id: container.id().to_owned(),
        exec_id: register(container, process)?,
        start: false,
        stdio,
    };
    carry.run(|| create::write_pid(pid_file, std::process::id()))
}

/// Tells the monitor of the process, which does not run yet.
fn register(container: &Container, process: &Process) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let exec_id = format!("exec-{}-{}", std::process::id(), now.unwrap_or_default().as_nanos());
    let value = serde_json::to_vec(process).context(Kind::Bug, || "write the process".into())?;
    let spec = Any {
        type_url: PROCESS.to_owned(),
        value,
        ..Any::default()
    };
    let terminal = process.terminal().unwrap_or(false);
    let [input, output, error] = places(Streams::ALL, terminal);
    let request = ExecProcessRequest {
        id: container.id().to_owned(),
        exec_id: exec_id.clone(),
        terminal,
        stdin: input.to_owned(),
        stdout: output.to_owned(),
        stderr: error.to_owned(),
        spec: Some(spec).into(),
        ..ExecProcessRequest::default()
    };
    container.link()?.call::<Empty>(TASK, "Exec", &request)?;
    Ok(exec_id)
}
