// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The verbs that are one question or one order.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use api::task::api::{Empty, KillRequest, PauseRequest, ResumeRequest, StartRequest, StartResponse, UpdateTaskRequest};
use base::{Context, Error, Kind, Result};
use nix::unistd::{getegid, geteuid};
use oci::starter::Owner;
use oci::{Moment, Status};
use protobuf::well_known_types::any::Any;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::arguments::UpdateArgs;
use super::container::Container;
use super::{Globals, hook, print, resources, signal};
use crate::link::TASK;

/// How containerd marks resources that travel as JSON.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Kind::State, what)
}

pub fn start(globals: &Globals, id: &str) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    match container.status()? {
        Status::Created => {}
        Status::Running | Status::Paused => return Err(wrong("cannot start an already running container")),
        _ => return Err(wrong("cannot start a container that has stopped")),
    }
    let request = StartRequest {
        id: id.to_owned(),
        ..StartRequest::default()
    };
    container.link()?.call::<StartResponse>(TASK, "Start", &request)?;
    let state = container.state()?;
    hook::run_on(&container.bundle()?, Moment::Poststart, &state);
    Ok(())
}

pub fn state(globals: &Globals, id: &str) -> Result<()> {
    let state = Container::find(&globals.root, id)?.state()?;
    let text = serde_json::to_string_pretty(&state).context(Kind::Bug, || "write the state".into())?;
    print(&text)
}

pub fn kill(globals: &Globals, id: &str, signal: &str, all: bool) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    let signal = signal::parse(signal)?;
    if container.status()? == Status::Stopped {
        // Nobody is left to be signalled, which is what --all asks for.
        return if all {
            Ok(())
        } else {
            Err(wrong("container not running"))
        };
    }
    let request = KillRequest {
        id: id.to_owned(),
        signal,
        all,
        ..KillRequest::default()
    };
    container.link()?.call::<Empty>(TASK, "Kill", &request).map(|_| ())
}

pub fn pause(globals: &Globals, id: &str) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    match container.status()? {
        Status::Running | Status::Created => {}
        _ => return Err(wrong("container not running")),
    }
    let request = PauseRequest {
        id: id.to_owned(),
        ..PauseRequest::default()
    };
    container.link()?.call::<Empty>(TASK, "Pause", &request).map(|_| ())
}

pub fn resume(globals: &Globals, id: &str) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    if container.status()? != Status::Paused {
        return Err(wrong("container not paused"));
    }
    let request = ResumeRequest {
        id: id.to_owned(),
        ..ResumeRequest::default()
    };
    container.link()?.call::<Empty>(TASK, "Resume", &request).map(|_| ())
}

pub fn update(globals: &Globals, args: &UpdateArgs) -> Result<()> {
    let container = Container::find(&globals.root, &args.id)?;
    let document = resources::document(args)?;
    if container.status()? == Status::Stopped {
        return Err(wrong("container not running"));
    }
    let value = serde_json::to_vec(&document).context(Kind::Bug, || "write the resources".into())?;
    let resources = Any {
        type_url: RESOURCES.to_owned(),
        value,
        ..Any::default()
    };
    let request = UpdateTaskRequest {
        id: args.id.clone(),
        resources: Some(resources).into(),
        ..UpdateTaskRequest::default()
    };
    container.link()?.call::<Empty>(TASK, "Update", &request).map(|_| ())
}

pub fn spec(bundle: Option<&Path>, rootless: bool) -> Result<()> {
    let file = bundle.unwrap_or(Path::new(".")).join("config.json");
    let owner = rootless.then(|| Owner {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    });
    let text = oci::starter::text(owner)?;
    let created = OpenOptions::new().write(true).create_new(true).open(&file);
    match created.and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let what = format!("File {} exists. Remove it first", file.display());
            Err(Error::new(Kind::Exists, what))
        }
        other => other.attempt(|| format!("write {}", file.display())),
    }
}

pub fn features() -> Result<()> {
    let mut bytes = Vec::new();
    let mut out = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    let written = oci::features::document().serialize(&mut out);
    written.context(Kind::Bug, || "write the features".into())?;
    bytes.push(b'\n');
    print(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use api::task::api::Status as TaskStatus;

    use super::super::container::stub;
    use super::*;

    fn globals(root: &Path) -> Globals {
        Globals {
            root: root.to_owned(),
            log: crate::shim::Log::default(),
            systemd_cgroup: false,
            user_network: None,
            settings: std::sync::Arc::default(),
        }
    }

    #[test]
    fn each_state_allows_what_runc_allows_and_says_what_runc_says() {
        type Act = fn(&Globals) -> Result<()>;
        let start: Act = |globals| start(globals, "c1");
        let signal: Act = |globals| kill(globals, "c1", "usr1", false);
        let signal_all: Act = |globals| kill(globals, "c1", "9", true);
        let freeze: Act = |globals| pause(globals, "c1");
        let thaw: Act = |globals| resume(globals, "c1");
        let cases = [
            (TaskStatus::RUNNING, start, "cannot start an already running container"),
            (TaskStatus::STOPPED, start, "cannot start a container that has stopped"),
            (TaskStatus::CREATED, signal, ""),
            (TaskStatus::PAUSED, signal, ""),
            (TaskStatus::STOPPED, signal, "container not running"),
            (TaskStatus::STOPPED, signal_all, ""),
            (TaskStatus::RUNNING, freeze, ""),
            (TaskStatus::PAUSED, freeze, "container not running"),
            (TaskStatus::PAUSED, thaw, ""),
            (TaskStatus::RUNNING, thaw, "container not paused"),
        ];
        for (status, act, why) in cases {
            let root = tempfile::tempdir().unwrap();
            stub::record(root.path(), "c1");
            let monitor = stub::monitor(root.path(), "c1", status);
            let got = act(&globals(root.path())).err().map_or(String::new(), |e| e.chain());
            assert_eq!(got, why, "{status:?}");
            monitor.stop();
        }
    }

    #[test]
    fn a_starter_spec_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        spec(Some(dir.path()), false).unwrap();
        let again = spec(Some(dir.path()), true).unwrap_err();
        assert_eq!(again.kind(), Kind::Exists);
        assert!(again.chain().contains("config.json exists. Remove it first"));
    }
}
