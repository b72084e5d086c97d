// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A container of the guest, as the agent holds it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci_spec::runtime as oci;

use crate::cgroup::{Cgroup, OomWatch, Stats};
use crate::channel::Message;
use crate::disk::{self, Disk};
use crate::launch::{Process, Request, Stdio, Waiting, launch, start_helper};
use crate::localize::localize;
use crate::namespace::Join;
use crate::nest::{Nest, Nests, Shape};
use crate::sys;
use crate::task::{self, Task};
use crate::validate;

/// How long killed processes may take to be gone.
const ENDING: Duration = Duration::from_secs(10);

/// Where the agent has put a thing that the spec names on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Index into the spec's mounts, or -1 for the rootfs.
    pub mount: i32,
    /// Absolute path in the guest.
    pub path: PathBuf,
}

/// What to create.
#[derive(Debug)]
pub struct Create {
    /// The container; a plain file name.
    pub id: String,
    /// config.json as the engine wrote it, see [`validate::parse`].
    pub spec: oci::Spec,
    /// The rootfs, and the source of each bind mount that is not the guest's own.
    pub attachments: Vec<Attachment>,
    /// What the namespaces are that the spec names by paths.
    pub namespaces: Vec<Join>,
    /// The machine's block devices that the spec names as the host's.
    pub disks: Vec<Disk>,
    /// The init's streams.
    pub stdio: Stdio,
    /// Its init only waits, see [`crate::pause`].
    pub pause: bool,
}

/// A container: its cgroup, and its init process until it is reaped by the agent.
///
/// All calls may block for milliseconds (disk, kernel), none waits for a process of the container, but
/// [`Container::remove`]. None excludes another: one that hangs (an exec in a frozen container) does not keep a kill
/// from going through. Dropping it kills what is in it.
#[derive(Debug)]
pub struct Container {
    id: String,
    spec: oci::Spec,
    cgroup: Cgroup,
    disks: Vec<Disk>,
    init: i32,
    /// The init before [`Container::start`].
    waiting: Mutex<Option<Waiting>>,
}

impl Container {
    /// Creates the container up to the point where only the user's program is missing.
    ///
    /// Errors: `Invalid` and `Unsupported` with what is wrong in the spec; `NotFound` and `Denied` for the
    /// program, worded as runc does. Nothing stays behind.
    pub fn create(create: Create, nests: &Nests) -> Result<(Container, Process)> {
        let Create {
            id,
            spec,
            attachments,
            namespaces,
            disks,
            stdio,
            pause,
        } = create;
        validate::id(&id)?;
        validate::spec(&spec)?;
        let spec = disk::localize(spec, &disks)?;
        let spec = localize(spec, &attachments, &namespaces)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Invalid, "process is missing"))?;
        same_stdio(process, &stdio)?;
        let joined = namespaces.into_iter().filter_map(|join| Some((join.kind, join.of?)));
        let (kinds, joined): (Vec<_>, Vec<_>) = joined.unzip();
        let Nest {
            channel, pid, cgroup, ..
        } = nests.take(&spec, &kinds)?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
            cgroup.apply(resources)?;
        }
        let request = Request {
            id,
            spec,
            joined: kinds,
            pause,
        };
        let (process, waiting) = launch(channel, pid, &request, joined, stdio)?;
        let Request { id, spec, .. } = request;
        let container = Container {
            id,
            spec,
            cgroup,
            disks,
            init: process.pid,
            waiting: Mutex::new(Some(waiting)),
        };
        Ok((container, process))
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pid of its init, also after its end.
    pub fn pid(&self) -> i32 {
        self.init
    }

    /// Executes the user's program. Errors: `State` the second time; `NotFound` and `Denied` for the program.
    pub fn start(&self) -> Result<()> {
        let waiting = self.take();
        match waiting {
            Some(init) => {
                self.ask_again();
                init.go()
            }
            None => Err(Error::new(
                Kind::State,
                format!("container {} was started before", self.id),
            )),
        }
    }

    /// Engines write to files that they bind, as /etc/hosts, until they start the container: their sizes from when they were bound are
    /// believed for a moment, and what is behind them is not read.
    fn ask_again(&self) {
        let mounts = self.spec.mounts().iter().flatten();
        for source in mounts.filter_map(|mount| mount.source().as_deref()) {
            // Only paths; others are names of file systems.
            let path = source
                .is_absolute()
                .then(|| CString::new(source.as_os_str().as_bytes()));
            if let Some(Ok(path)) = path
                && let Err(e) = sys::ask_again(&path)
            {
                log::debug!("look at {} again: {e}", source.display());
            }
        }
    }

    fn take(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Starts a further process: in all the container's namespaces and its cgroup, under its seccomp filter,
    /// with the capabilities of the container's init if it says none. Errors: as [`Container::create`];
    /// `Gone` when the init has ended.
    pub fn exec(&self, process: oci::Process, stdio: Stdio) -> Result<Process> {
        validate::process(&process)?;
        same_stdio(&process, &stdio)?;
        let mut spec = self.spec.clone();
        let process = self.inherit(process);
        spec.set_process(Some(process));
        let request = Request {
            id: self.id.clone(),
            spec,
            joined: Vec::new(),
            pause: false,
        };
        let channel = start_helper()?;
        channel.send(&Message::Prepare(Shape::further(self.cgroup.path(), self.init)), &[])?;
        let (process, waiting) = launch(channel, None, &request, Vec::new(), stdio)?;
        waiting.go()?;
        Ok(process)
    }

    fn inherit(&self, mut process: oci::Process) -> oci::Process {
        if process.capabilities().is_none() {
            let own = self
                .spec
                .process()
                .as_ref()
                .and_then(|init| init.capabilities().clone());
            process.set_capabilities(own);
        }
        process
    }

    /// Signals one of its processes, which must not have been reaped. Errors: `Gone` when it has ended.
    pub fn signal(&self, pid: i32, signal: i32) -> Result<()> {
        match Pidfd::open(pid) {
            Err(e) if e.kind() == Kind::NotFound => Err(e).context(Kind::Gone, || format!("signal process {pid}")),
            other => other?.signal(signal),
        }
    }

    /// Signals every process in its cgroup; SIGKILL cannot miss one that forks.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.cgroup.kill();
        }
        for pid in self.cgroup.pids()? {
            match self.signal(pid, signal) {
                Err(e) if e.kind() == Kind::Gone => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Freezes all its processes.
    pub fn pause(&self) -> Result<()> {
        self.cgroup.freeze(true)
    }

    /// Thaws them.
    pub fn resume(&self) -> Result<()> {
        self.cgroup.freeze(false)
    }

    /// Changes limits; absent members stay as they are.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<()> {
        let mut resources = resources.clone();
        disk::localize_limits(&mut resources, &self.disks);
        self.cgroup.apply(&resources)
    }

    /// Counters of its cgroup.
    pub fn stats(&self) -> Result<Stats> {
        self.cgroup.stats()
    }

    /// Its processes, in order of their pids.
    pub fn processes(&self) -> Result<Vec<Task>> {
        Ok(self.cgroup.pids()?.into_iter().filter_map(task::read).collect())
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_count(&self) -> u64 {
        self.cgroup.oom_count()
    }

    /// Tells when [`Container::oom_count`] may have changed.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        self.cgroup.oom_watch()
    }

    /// Kills what is left, waits for it, and removes the cgroup; its mounts go with its last process. The
    /// agent must be reaping meanwhile. Errors: `Timeout` when a process cannot be killed (it sleeps in the
    /// kernel); calling again tries again.
    pub fn remove(&self) -> Result<()> {
        drop(self.take());
        self.cgroup.remove(ENDING)
    }

    /// As [`Container::remove`], in a guest that is about to end: its group, and what the kernel remembers for it, end with the guest.
    pub fn end(&self) -> Result<()> {
        drop(self.take());
        self.cgroup.empty(ENDING)
    }
}

fn same_stdio(process: &oci::Process, stdio: &Stdio) -> Result<()> {
    match (process.terminal().unwrap_or(false), stdio) {
        (true, Stdio::Terminal) | (false, Stdio::Streams { .. }) => Ok(()),
        (true, _) => Err(Error::new(
            Kind::Invalid,
            "process.terminal is set, but streams are given",
        )),
        (false, _) => Err(Error::new(
            Kind::Invalid,
            "a terminal is given, but process.terminal is not set",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_can_be_used_from_any_thread() {
        fn send<T: Send>() {}
        fn share<T: Sync>() {}
        send::<Container>();
        share::<Container>();
        send::<Create>();
        send::<Process>();
    }
}
