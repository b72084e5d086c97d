// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One container of a sandbox: its processes and what is mounted for it on the host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base::{Error, Kind, Result};
use oci::Status;

use crate::changes::Changes;
use crate::namespace::Identity;
use crate::process::{Process, Stage};
use crate::share::Placed;
use crate::size::Limits;

/// See the module.
#[derive(Debug)]
pub struct Container {
    /// Absolute.
    pub bundle: PathBuf,
    /// By exec id; the empty one is the init.
    pub processes: BTreeMap<String, Process>,
    /// It only holds namespaces for others.
    pub pause: bool,
    /// Its processes are frozen.
    pub paused: bool,
    /// How many of its processes the guest's kernel has killed for want of memory.
    pub oom_kills: u64,
    /// By type, those of the host that were prepared for its pod.
    pub prepared: BTreeMap<String, Identity>,
    /// Which limits it has by now.
    pub limits: Limits,
    /// Its root file system is to be one of the machine's block devices.
    pub root_on_disk: bool,
    /// Serial numbers of the block devices that the machine has for it.
    pub disks: Vec<String>,
    /// Unmounted on drop. None while it is being made.
    pub placed: Option<Placed>,
    /// Tells the guest what the host changes in its volumes, if it has any.
    pub changes: Option<Changes>,
}

impl Container {
    /// One whose init is being made.
    pub fn new(bundle: PathBuf, limits: Limits, init: Process) -> Container {
        Container {
            bundle,
            processes: BTreeMap::from([(String::new(), init)]),
            pause: false,
            paused: false,
            oom_kills: 0,
            prepared: BTreeMap::new(),
            limits,
            root_on_disk: false,
            disks: Vec::new(),
            placed: None,
            changes: None,
        }
    }

    /// Its init is not there yet.
    pub fn making(&self) -> bool {
        let stage = self.processes.get("").map(|init| &init.stage);
        matches!(stage, Some(Stage::Making))
    }

    /// Its init has ended.
    pub fn ended(&self) -> bool {
        self.processes.get("").is_none_or(|init| init.exit().is_some())
    }

    /// Where its init stands.
    pub fn status(&self) -> Status {
        match self.processes.get("").map(|init| &init.stage) {
            Some(Stage::Created) => Status::Created,
            Some(Stage::Running) if self.paused => Status::Paused,
            Some(Stage::Running) => Status::Running,
            Some(Stage::Making) => Status::Creating,
            _ => Status::Stopped,
        }
    }

    /// Host processes that carry its processes.
    pub fn carriers(&self) -> impl Iterator<Item = u32> {
        self.processes.values().filter_map(|process| process.carrier)
    }

    /// Nobody on the host carries a process of it any more.
    pub fn deserted(&self) -> bool {
        self.processes.values().all(|process| process.carrier.is_none())
    }

    /// The host process `pid` carries a process of it.
    pub fn carried_by(&self, pid: u32) -> bool {
        self.processes.values().any(|process| process.carrier == Some(pid))
    }

    /// One of its processes. Errors: `NotFound`.
    pub fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process> {
        self.processes.get_mut(exec_id).ok_or_else(|| match exec_id {
            "" => Error::new(Kind::NotFound, format!("container {id} has no process")),
            _ => Error::new(Kind::NotFound, format!("container {id} has no process {exec_id}")),
        })
    }

    /// Errors: `State` unless its init runs.
    pub fn running(&self, id: &str) -> Result<()> {
        match self.processes.get("").map(|init| &init.stage) {
            Some(Stage::Running) => Ok(()),
            _ => Err(Error::new(Kind::State, format!("container {id} is not running"))),
        }
    }
}
