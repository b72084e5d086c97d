// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `state.json`: what a sandbox is and was, for people, for tests, and for whoever cleans up after a monitor that was killed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use base::{Context, Kind, Result};
use machine::SavedMachine;
use serde::{Deserialize, Serialize};

use crate::process::Exit;
use crate::span::Span;

const FILE: &str = "state.json";

/// A process, told apart from later ones with its pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// Host pid.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedContainer {
    /// Absolute.
    pub bundle: String,
    /// As `state` prints it.
    pub status: String,
    /// How its init ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Host processes that stand for those of its processes which were started from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carriers: Vec<u32>,
    /// Processes that were killed for want of memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Of the sandbox.
    pub id: String,
    /// `starting`, `up`, `down`.
    pub phase: String,
    /// The hypervisor, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// The device process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<SavedProcess>,
    /// Why the machine ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By id.
    pub containers: BTreeMap<String, SavedContainer>,
    /// When the monitor began: the host's CLOCK_MONOTONIC, milliseconds.
    #[serde(default)]
    pub begun: f64,
    /// How the start went.
    pub spans: Vec<Span>,
}

/// [`SavedMachine`] compared by its process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Machine(pub SavedMachine);

impl PartialEq for Machine {
    fn eq(&self, other: &Machine) -> bool {
        (self.0.pid, self.0.start_time) == (other.0.pid, other.0.start_time)
    }
}

impl Saved {
    /// Replaces the file in `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        base::file::replace(&dir.join(FILE), &self.json()?)
    }

    /// As bytes.
    pub fn json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context(Kind::Bug, || "write the sandbox's state".into())
    }

    /// Reads the file in `dir`; none when there is none.
    pub fn read(dir: &Path) -> Result<Option<Saved>> {
        let path = dir.join(FILE);
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.attempt(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&json)
            .context(Kind::Bug, || format!("parse {}", path.display()))
            .map(Some)
    }
}

/// Ends what a monitor that was killed may have left running, by the state in `dir`. They die with it by themselves; this makes
/// sure. Other processes that have got their pids since are left alone.
pub fn end_leftovers(dir: &Path) -> Result<()> {
    let Some(saved) = Saved::read(dir)? else {
        return Ok(());
    };
    if let Some(machine) = saved.machine {
        machine::clean(&machine.0)?;
    }
    if let Some(device) = saved.device {
        machine::process::kill_leftover(device.pid, device.start_time)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_leftovers_end() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Saved::read(dir.path()).unwrap(), None);
        end_leftovers(dir.path()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let container = SavedContainer {
            bundle: "/b".into(),
            status: "stopped".into(),
            exit: Some(Exit::lost("why")),
            carriers: vec![7],
            oom_kills: 0,
        };
        let saved = Saved {
            id: "s1".into(),
            phase: "up".into(),
            machine: None,
            device: Some(SavedProcess {
                pid,
                start_time: machine::process::start_time(pid).unwrap(),
            }),
            reason: None,
            containers: BTreeMap::from([("c1".into(), container)]),
            begun: 12.5,
            spans: Vec::new(),
        };
        saved.write(dir.path()).unwrap();
        assert_eq!(Saved::read(dir.path()).unwrap(), Some(saved.clone()));
        let text = String::from_utf8(saved.json().unwrap()).unwrap();
        assert!(
            text.contains("137") && text.contains("reason") && !text.contains("oom"),
            "{text}"
        );
        end_leftovers(dir.path()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
