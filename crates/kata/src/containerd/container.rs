// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The containers of a shim and their processes, as containerd sees them: by ids and pids of the host. What they do in the guest, the
//! monitor knows.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api::task::api::Status as TaskStatus;
use base::{Error, Kind, Result};
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::{Mutex, watch};

use super::io::Places;
use super::monitor::Monitor;

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// 128+n after signal n.
    pub status: u32,
    pub at: MessageField<Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    pub places: Places,
    /// What it runs; empty for an init, whose bundle says it.
    pub command: Vec<String>,
    /// Of the shim that stands for it; 0 before that is started.
    pub pid: u32,
    pub started: bool,
    /// Keeps its input open; see [`super::io::Opened`].
    pub input: Option<OwnedFd>,
    /// Held from a change of the process until its event is on its way: a start is told before its end.
    pub order: Arc<Mutex<()>>,
    pub exit: watch::Sender<Option<Exit>>,
}

impl Process {
    pub fn new(places: Places) -> Process {
        Process {
            places,
            command: Vec::new(),
            pid: 0,
            started: false,
            input: None,
            order: Arc::default(),
            exit: watch::Sender::new(None),
        }
    }

    pub fn ended(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// It has a shim, which has not ended.
    pub fn alive(&self) -> bool {
        self.pid != 0 && self.exit.borrow().is_none()
    }

    /// Where it stands; whether a container is paused is for the monitor to say.
    pub fn status(&self) -> TaskStatus {
        match (self.exit.borrow().is_some(), self.started) {
            (true, _) => TaskStatus::STOPPED,
            (false, true) => TaskStatus::RUNNING,
            (false, false) => TaskStatus::CREATED,
        }
    }
}

/// A container: its init has no exec id.
#[derive(Debug)]
pub struct Container {
    pub bundle: String,
    /// Its connection, once somebody has needed it.
    pub monitor: Option<Arc<Monitor>>,
    pub processes: BTreeMap<String, Process>,
    /// How many kills for want of memory containerd was told of.
    pub oom_kills: u64,
}

/// All of a shim, by id.
#[derive(Debug, Default)]
pub struct Containers(BTreeMap<String, Container>);

impl Containers {
    pub fn find(&mut self, id: &str) -> Result<&mut Container> {
        let missing = || Error::new(Kind::NotFound, format!("container {id} does not exist"));
        self.0.get_mut(id).ok_or_else(missing)
    }

    pub fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process> {
        let missing = || {
            Error::new(
                Kind::NotFound,
                format!("process {exec_id} of container {id} does not exist"),
            )
        };
        self.find(id)?.processes.get_mut(exec_id).ok_or_else(missing)
    }

    pub fn insert(&mut self, id: &str, container: Container) {
        self.0.insert(id.to_owned(), container);
    }

    pub fn remove(&mut self, id: &str) -> Option<Container> {
        self.0.remove(id)
    }

    pub fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    pub fn ids(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}
