// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is asked of a sandbox about its containers and their processes. It does not know how the machine lives and ends.

use std::sync::Arc;

use api::agent::{Change, RaiseEventsRequest, Stdio, change};
use base::{Context, Error, Kind, Result};
use oci::Status;

use super::{SIGKILL, Sandbox, View};
use crate::guest::Guest;
use crate::keeper::end_of;
use crate::process::{Exit, Process, Stage};
use crate::share::TAG;

impl Sandbox {
    /// Starts the init (no exec id) or a process that [`Sandbox::define`] has made known.
    pub async fn start(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<()> {
        if exec_id.is_empty() {
            let guest = self.guest_of(id, |container| match &container.process(id, "")?.stage {
                Stage::Created => Ok(()),
                Stage::Running => Err(Error::new(Kind::State, "cannot start an already running container")),
                _ => Err(Error::new(Kind::State, "cannot start a container that has stopped")),
            })?;
            // What the engine has plugged since the container was created.
            if let Some(line) = self.line() {
                line.refresh().await?;
            }
            guest.start(id).await?;
            self.runs(id, "");
            return Ok(());
        }
        let mut defined = None;
        let guest = self.guest_of(id, |container| {
            container.running(id)?;
            let process = container.process(id, exec_id)?;
            match std::mem::replace(&mut process.stage, Stage::Making) {
                Stage::Defined(json) => {
                    defined = Some((json, process.stdio.clone()));
                    Ok(())
                }
                other => {
                    process.stage = other;
                    Err(Error::new(Kind::State, format!("process {exec_id} was started before")))
                }
            }
        })?;
        let Some((json, stdio)) = defined else {
            return Err(Error::new(Kind::Bug, "a process without definition"));
        };
        if let Err(e) = guest.exec(id, exec_id, json, stdio).await {
            if let Ok(process) = self
                .state()
                .container(id)
                .and_then(|container| container.process(id, exec_id))
            {
                process.end(Exit::lost(e.chain()));
            }
            self.note();
            return Err(e);
        }
        self.runs(id, exec_id);
        let (sandbox, id, exec_id) = (Arc::clone(self), id.to_owned(), exec_id.to_owned());
        tokio::spawn(async move { sandbox.follow(guest, id, exec_id).await });
        Ok(())
    }

    fn runs(&self, id: &str, exec_id: &str) {
        if let Ok(process) = self
            .state()
            .container(id)
            .and_then(|container| container.process(id, exec_id))
            && process.alive()
        {
            process.stage = Stage::Running;
        }
        self.note();
    }

    /// Makes a further process known, for [`Sandbox::start`].
    pub fn define(&self, id: &str, exec_id: &str, json: Vec<u8>, terminal: bool, stdio: Stdio) -> Result<()> {
        base::id::check(exec_id)?;
        let mut state = self.state();
        let container = state.container(id)?;
        container.running(id)?;
        if container.processes.contains_key(exec_id) {
            return Err(Error::new(Kind::Exists, format!("process {exec_id} exists already")));
        }
        let process = Process::new(Stage::Defined(json), terminal, stdio);
        container.processes.insert(exec_id.to_owned(), process);
        Ok(())
    }

    /// Removes a process that has ended, or with no exec id the container; with the last container the machine goes. Returns
    /// how it ended.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let exit = {
            let mut state = self.state();
            let container = state.container(id)?;
            let process = container.process(id, exec_id)?;
            match &process.stage {
                Stage::Ended(exit) => exit.clone(),
                Stage::Defined(_) => Exit::lost("it was never started"),
                _ if exec_id.is_empty() => {
                    let what = format!("cannot delete container {id} that is not stopped");
                    return Err(Error::new(Kind::State, what));
                }
                _ => return Err(Error::new(Kind::State, format!("process {exec_id} still runs"))),
            }
        };
        if !exec_id.is_empty() {
            if let Ok(guest) = self.guest()
                && let Err(e) = guest.forget(id, exec_id).await
            {
                log::debug!("{}", e.chain());
            }
            if let Ok(container) = self.state().container(id) {
                container.processes.remove(exec_id);
            }
            return Ok(exit);
        }
        if self.alone(id) {
            self.stop(None);
            self.down().await;
        } else if let Ok(guest) = self.guest()
            && let Err(e) = guest.remove(id).await
        {
            // A guest that is being shut down has taken it away already.
            if !self.ending() && !matches!(e.kind(), Kind::Gone | Kind::NotFound) {
                return Err(e);
            }
            log::debug!("{}", e.chain());
        }
        if self.guest().is_ok() {
            let disks = self.state().container(id)?.disks.clone();
            self.unplug(disks).await;
        }
        let container = self.state().containers.remove(id);
        // Unmounts.
        drop(container);
        if let Ok(guest) = self.guest() {
            tokio::spawn(forgotten(guest, id.to_owned()));
        }
        self.measure().await;
        self.note();
        self.stop_if_over();
        Ok(exit)
    }

    /// Returns when there is no container and none is expected.
    pub async fn emptied(&self) {
        self.until(|state| (state.containers.is_empty() && state.expected.is_empty()).then_some(()))
            .await;
    }

    /// Waits for the end of a process.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        self.until(
            |state| match state.container(id).and_then(|container| container.process(id, exec_id)) {
                Ok(process) => process.exit().cloned().map(Ok),
                Err(e) => Some(Err(e)),
            },
        )
        .await
    }

    /// Waits until another number than `seen` of the container's processes has been killed for want of memory.
    pub async fn oom(&self, id: &str, seen: u64) -> Result<u64> {
        self.until(|state| match state.container(id) {
            Ok(container) => (container.oom_kills != seen).then_some(Ok(container.oom_kills)),
            Err(e) => Some(Err(e)),
        })
        .await
    }

    /// Signals a process, or all of a container.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let guest = self.guest_of(id, |container| {
            if container.process(id, exec_id)?.alive() {
                Ok(())
            } else {
                Err(Error::new(Kind::NotFound, "process already finished"))
            }
        })?;
        guest.signal(id, exec_id, signal, all).await
    }

    /// Sets the size of a process's terminal.
    pub async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let guest = self.guest_of(id, |container| container.process(id, exec_id).map(drop))?;
        guest.resize(id, exec_id, width, height).await
    }

    /// Freezes a container, or thaws it.
    pub async fn freeze(&self, id: &str, frozen: bool) -> Result<()> {
        let guest = self.guest_of(id, |_| Ok(()))?;
        guest.freeze(id, frozen).await?;
        if let Ok(container) = self.state().container(id) {
            container.paused = frozen;
        }
        self.note();
        Ok(())
    }

    /// The container's processes, by the guest's pids.
    pub async fn processes(&self, id: &str) -> Result<Vec<api::agent::Process>> {
        let guest = self.guest_of(id, |_| Ok(()))?;
        guest.processes(id).await.map(|answer| answer.processes)
    }

    /// What the container's own /proc says of its processes with greater pids than `after`.
    pub async fn files(&self, id: &str, after: u32) -> Result<api::agent::ReadProcessesResponse> {
        self.guest_of(id, |_| Ok(()))?.files(id, after).await
    }

    /// The container's counters.
    pub async fn stats(&self, id: &str) -> Result<api::agent::StatsContainerResponse> {
        self.guest_of(id, |_| Ok(()))?.stats(id).await
    }

    /// What the outside may know of a process.
    pub fn view(&self, id: &str, exec_id: &str) -> Result<View> {
        let mut state = self.state();
        let container = state.container(id)?;
        let (bundle, paused) = (container.bundle.clone(), container.paused);
        let process = container.process(id, exec_id)?;
        let status = match &process.stage {
            Stage::Defined(_) | Stage::Created => Status::Created,
            Stage::Making => Status::Creating,
            Stage::Ended(_) => Status::Stopped,
            Stage::Running if paused => Status::Paused,
            Stage::Running => Status::Running,
        };
        Ok(View {
            status,
            pid: process.carrier.unwrap_or(0),
            bundle,
            terminal: process.terminal,
            exit: process.exit().cloned(),
        })
    }

    /// Ties a process to the host process `pid`: it is killed when that one ends first.
    pub fn attach(self: &Arc<Self>, id: &str, exec_id: &str, pid: u32) -> Result<()> {
        let number = i32::try_from(pid).context(Kind::Invalid, || format!("process {pid}"))?;
        let held = base::pidfd::Pidfd::open(number)?;
        let mut state = self.state();
        let process = state.container(id)?.process(id, exec_id)?;
        if process.carrier.is_some() {
            return Err(Error::new(Kind::Exists, format!("container {id} has a shim already")));
        }
        process.carrier = Some(pid);
        drop(state);
        let (sandbox, id, exec_id) = (Arc::clone(self), id.to_owned(), exec_id.to_owned());
        tokio::spawn(async move {
            end_of(&held).await;
            sandbox.detached(&id, &exec_id, pid).await;
        });
        Ok(())
    }

    /// The host process that carried a process has ended.
    async fn detached(&self, id: &str, exec_id: &str, pid: u32) {
        let orphan = match self
            .state()
            .container(id)
            .and_then(|container| container.process(id, exec_id))
        {
            Ok(process) if process.carrier == Some(pid) => {
                process.carrier = None;
                let alive = process.alive();
                if alive {
                    process.doom = Some(format!("its shim, process {pid}, has ended"));
                }
                alive
            }
            _ => return,
        };
        if orphan {
            log::warn!("the shim of {id} {exec_id} has ended: its process is killed");
            if let Ok(guest) = self.guest()
                && let Err(e) = guest.signal(id, exec_id, SIGKILL, false).await
            {
                log::warn!("{}", e.chain());
            }
        }
        self.stop_if_over();
    }
}

/// Has the guest look for the files of a container that was deleted: it finds that they have gone, and the device process can close
/// them. Sooner it would believe what it knows.
async fn forgotten(guest: Guest, id: String) {
    tokio::time::sleep(2 * devices::fs::TIMEOUT).await;
    let gone = Change {
        name: id.into_bytes(),
        kind: change::Kind::GONE.into(),
        ..Change::default()
    };
    let request = RaiseEventsRequest {
        tag: TAG.to_owned(),
        changes: vec![gone],
        ..RaiseEventsRequest::default()
    };
    if let Err(e) = guest.raise(&request).await {
        log::debug!("{}", e.chain());
    }
}
