// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A place where a container can live, made before anybody asks for one: a cgroup, and in it the process that becomes the container's
//! first, in namespaces of its own as far as they are the same in nearly all containers. Made ahead, it takes the greater part of a
//! container's creation out of a start.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use base::{Error, Kind, Result};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::launch::{note, start_helper};
use crate::namespace;

/// All containers' cgroups are below.
const PARENT: &str = "kata";

/// Where a process will be, as the helper is told first.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Shape {
    /// The container's cgroup directory.
    pub cgroup: PathBuf,
    /// A further process in the container of this init; none: a container's first.
    pub join: Option<i32>,
    /// `CLONE_NEW…` of namespaces that it leaves before the spec is known.
    early: i32,
    /// There is time for more: see [`crate::stock`]. It says when that is made.
    pub ahead: bool,
}

impl Shape {
    /// One more process in the container that lives in `cgroup` with this init.
    pub fn further(cgroup: &Path, init: i32) -> Shape {
        Shape {
            cgroup: cgroup.to_owned(),
            join: Some(init),
            early: 0,
            ahead: false,
        }
    }

    /// Namespaces that it leaves before the spec is known.
    pub fn early(&self) -> CloneFlags {
        CloneFlags::from_bits_retain(self.early)
    }
}

/// See the module. Dropping it ends it.
#[derive(Debug)]
pub struct Nest {
    /// To the helper, or to the process once it is there.
    pub channel: Channel,
    /// In the agent's pid namespace; none before the request is known.
    pub pid: Option<i32>,
    /// With the devices that every container has, without limits.
    pub cgroup: Cgroup,
    early: CloneFlags,
}

impl Nest {
    fn make(root: &Path, name: &Path, early: CloneFlags, ahead: bool) -> Result<Nest> {
        let cgroup = Cgroup::create(root, name)?;
        let channel = start_helper()?;
        let shape = Shape {
            cgroup: cgroup.path().to_owned(),
            join: None,
            early: early.bits(),
            ahead,
        };
        channel.send(&Message::Prepare(shape), &[])?;
        let pid = if early.is_empty() {
            None
        } else {
            Some(forked(&channel, ahead)?)
        };
        Ok(Nest {
            channel,
            pid,
            cgroup,
            early,
        })
    }
}

fn forked(channel: &Channel, ahead: bool) -> Result<i32> {
    let mut pid = None;
    while let Some((message, _)) = channel.receive()? {
        match (note(message)?, pid) {
            (Message::Forked(child), _) if !ahead => return Ok(child),
            (Message::Forked(child), _) => pid = Some(child),
            (Message::Ready, Some(pid)) => return Ok(pid),
            _ => {}
        }
    }
    Err(Error::new(Kind::Gone, "a process was killed while it was prepared"))
}

/// Where nests come from.
#[derive(Debug)]
pub struct Nests {
    /// Where cgroup v2 is mounted.
    root: PathBuf,
    made: AtomicU64,
    spare: Mutex<Option<Nest>>,
}

impl Nests {
    /// None yet.
    pub fn new(root: &Path) -> Nests {
        Nests {
            root: root.to_owned(),
            made: AtomicU64::new(0),
            spare: Mutex::new(None),
        }
    }

    /// Makes one for later, as nearly every container needs it. A container that comes meanwhile waits for it: the same work is not done
    /// twice.
    pub fn prepare(&self) -> Result<()> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            *spare = Some(self.make(namespace::EARLY, true)?);
        }
        Ok(())
    }

    /// One for this spec, whose process joins namespaces of these types: that which was made for later, if it fits.
    pub(crate) fn take(&self, spec: &Spec, joined: &[LinuxNamespaceType]) -> Result<Nest> {
        let early = namespace::early(spec, joined);
        let spare = {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            spare.take_if(|spare| spare.early == early)
        };
        spare.map_or_else(|| self.make(early, false), Ok)
    }

    fn make(&self, early: CloneFlags, ahead: bool) -> Result<Nest> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Nest::make(&self.root, &Path::new(PARENT).join(format!("c{number}")), early, ahead)
    }
}
