// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `list` and `ps`, as tables or JSON.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use api::monitor::{InspectRequest, InspectResponse};
use api::task::api::{PidsRequest, PidsResponse, ProcessInfo};
use base::{Context, Kind, Result};
use nix::unistd::{Uid, User};
use oci::{State, Status};
use sandbox::saved::Saved;

use super::arguments::Format;
use super::container::Container;
use super::table::table;
use super::{Globals, print};
use crate::link::{MONITOR, TASK};

pub fn containers(globals: &Globals, format: Format, quiet: bool) -> Result<()> {
    let states = states(&globals.root)?;
    if quiet {
        return print(&states.iter().map(|state| format!("{}\n", state.id)).collect::<String>());
    }
    match format {
        Format::Table => print(&rows(&states)),
        // runc writes null for none, and engines take both.
        Format::Json if states.is_empty() => print("null\n"),
        Format::Json => {
            let text = serde_json::to_string(&states).context(Kind::Bug, || "write the list".into())?;
            print(&format!("{text}\n"))
        }
    }
}

fn rows(states: &[State]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |state: &State| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(states.iter().map(row)).collect();
    table(&rows)
}

/// Of all containers below `root`, by id. One that vanishes meanwhile is left out, one that cannot be read is warned about.
fn states(root: &Path) -> Result<Vec<State>> {
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.attempt(|| format!("read directory {}", root.display()))?,
    };
    let mut states = Vec::new();
    for entry in entries {
        let entry = entry.attempt(|| format!("read directory {}", root.display()))?;
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|id| base::id::check(id).is_ok()) else {
            continue;
        };
        let state = Container::find(root, id).and_then(|container| container.state());
        match state {
            Ok(mut state) => {
                state.owner = entry.metadata().map(|found| owner(found.uid())).unwrap_or_default();
                states.push(state);
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => log::warn!("container {id}: {}", e.chain()),
        }
    }
    states.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(states)
}

fn owner(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The processes: a table with the guest's pids, for people; as JSON those of the host processes that stand for them, for engines.
pub fn processes(globals: &Globals, id: &str, format: Format) -> Result<()> {
    let container = Container::find(&globals.root, id)?;
    let stopped = container.status()? == Status::Stopped;
    if format == Format::Json {
        let pids = if stopped { Vec::new() } else { carriers(&container)? };
        return print(&format!("{}\n", serde_json::json!(pids)));
    }
    let processes = if stopped { Vec::new() } else { running(&container)? };
    let head = ["UID", "PID", "PPID", "CMD"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(processes.iter().map(process)).collect();
    print(&table(&rows))
}

/// Engines look for these pids among the host's processes (`docker top`): those of the guest would name strangers there.
fn carriers(container: &Container) -> Result<Vec<u32>> {
    let answer: InspectResponse = container.link()?.call(MONITOR, "Inspect", &InspectRequest::new())?;
    let saved: Saved =
        serde_json::from_slice(&answer.json).context(Kind::Bug, || "parse the sandbox's state".into())?;
    let found = saved.containers.get(container.id());
    Ok(found.map(|container| container.carriers.clone()).unwrap_or_default())
}

fn running(container: &Container) -> Result<Vec<ProcessInfo>> {
    let request = PidsRequest {
        id: container.id().to_owned(),
        ..PidsRequest::default()
    };
    let response: PidsResponse = container.link()?.call(TASK, "Pids", &request)?;
    Ok(response.processes)
}

/// What the monitor tells of a process beside its pid is JSON: `{"uid","ppid","command"}`.
fn process(info: &ProcessInfo) -> [String; 4] {
    let detail: serde_json::Value = serde_json::from_slice(&info.info.value).unwrap_or_default();
    let text = |key: &str| match &detail[key] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => "?".to_owned(),
    };
    [text("uid"), info.pid.to_string(), text("ppid"), text("command")]
}

#[cfg(test)]
mod tests {
    use super::super::container::stub;
    use super::*;

    #[test]
    fn the_list_is_sorted_and_skips_what_is_no_container() {
        let root = tempfile::tempdir().unwrap();
        assert!(states(&root.path().join("none")).unwrap().is_empty());
        for id in ["b", "a"] {
            stub::record(root.path(), id);
        }
        fs::create_dir(root.path().join("half-made")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let states = states(root.path()).unwrap();
        let ids: Vec<&str> = states.iter().map(|state| state.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        let text = rows(&states);
        let line = text.lines().nth(1).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[..4], ["a", "0", "stopped", "/b"]);
        assert!(
            line.starts_with("a           0           stopped     /b          2026"),
            "{line}"
        );
    }

    #[test]
    fn a_process_of_which_little_is_known_has_question_marks() {
        let mut info = ProcessInfo {
            pid: 7,
            ..ProcessInfo::default()
        };
        assert_eq!(process(&info), ["?", "7", "?", "?"]);
        info.info.mut_or_insert_default().value = br#"{"uid":0,"ppid":1,"command":"sleep 9"}"#.to_vec();
        assert_eq!(process(&info), ["0", "7", "1", "sleep 9"]);
    }
}
