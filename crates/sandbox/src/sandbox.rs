// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One sandbox: its machine, and the life of its containers.
//!
//! ```text
//! machine     Absent ──create──► Booting ──agent answers──► Up ──last container over | a process ended──► Down
//! container   Making ──► Created ──start──► Running ──► Ended ──delete──► (gone)
//! ```
//!
//! How a container comes to be is in [`creation`], calls about containers and processes are in [`calls`]. It does not know the wire ([`crate::service`]) nor how machines are made
//! ([`crate::keeper`]).

mod calls;
mod creation;
mod disks;
mod figures;
mod growth;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::agent::{Stdio, event};
use base::{Error, Kind, Result};
use machine::SavedMachine;
use metrics::Durations;
use oci::{Bundle, Status};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::container::Container;
use crate::guest::Guest;
use crate::keeper::{Blueprint, Running};
use crate::metrics::Counts;
use crate::namespace::{self, Named};
use crate::network::Line;
use crate::order::Order;
use crate::origin::Origin;
use crate::process::{Exit, Process};
use crate::resolver::Resolver;
use crate::saved::{self, Saved, SavedContainer, SavedProcess};
use crate::share::{RootMount, Share};
use crate::span::Spans;
use crate::standby::Standby;
use growth::Extent;

/// How long a guest may take to write back its files at its end.
const LAST_WRITES: Duration = Duration::from_secs(20);
/// How long the end of a machine may lag behind the end of its connection.
const LAG: Duration = Duration::from_secs(2);
const SIGKILL: u32 = libc::SIGKILL.cast_unsigned();

/// See the module.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    dir: PathBuf,
    share: Share,
    plan: Blueprint,
    /// Never held across an await or a call of the system that may wait.
    state: Mutex<State>,
    /// Anything in `state` has changed.
    changed: Notify,
    /// Held while limits and the machine's size change. Taken before `state`.
    sizing: tokio::sync::Mutex<()>,
    counts: Counts,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Containers that somebody is about to create.
    expected: BTreeMap<String, Origin>,
    /// What is taken in place of a machine that would have to be launched.
    standby: Option<Standby>,
    containers: BTreeMap<String, Container>,
    spans: Spans,
    /// Calls of the agent; they stay when the machine has gone.
    agent_calls: Option<Arc<Durations>>,
}

#[derive(Debug)]
enum Phase {
    Absent,
    Booting,
    Up(Up),
    /// Why the machine ended; none when we wanted it to.
    Down(Option<String>),
}

#[derive(Debug)]
struct Up {
    guest: Guest,
    machine: SavedMachine,
    device: Option<SavedProcess>,
    line: Option<Line>,
    extent: Extent,
    /// Block devices that it was given so far.
    disks: u64,
    /// What the keeper is to do with the machine.
    orders: mpsc::UnboundedSender<Order>,
    /// Tells the keeper to end the machine, with the reason if it is to be lost.
    stop: oneshot::Sender<Option<String>>,
}

/// What a container is to be made of.
#[derive(Debug)]
pub struct Create {
    /// Its id.
    pub id: String,
    /// Its bundle's directory.
    pub bundle: PathBuf,
    /// What to mount in place of the bundle's rootfs.
    pub rootfs: Vec<RootMount>,
    /// Which streams its init has.
    pub stdio: Stdio,
    /// It only holds namespaces for others: its rootfs is empty, and its init the agent's own.
    pub pause: bool,
}

/// What the outside may know of a process.
#[derive(Debug, Clone)]
pub struct View {
    /// As for `state`.
    pub status: Status,
    /// Host process that stands for it, 0 without one.
    pub pid: u32,
    /// The container's.
    pub bundle: PathBuf,
    /// It has a terminal.
    pub terminal: bool,
    /// Once it has ended.
    pub exit: Option<Exit>,
}

impl Sandbox {
    /// An empty one in `dir`, which exists. `standby` becomes its machine, if there is one.
    pub fn new(
        id: &str,
        dir: &Path,
        share: Share,
        plan: Blueprint,
        standby: Option<Standby>,
        spans: Spans,
    ) -> Result<Arc<Sandbox>> {
        let sandbox = Sandbox {
            id: id.to_owned(),
            dir: dir.to_owned(),
            share,
            plan,
            state: Mutex::new(State {
                phase: Phase::Absent,
                expected: BTreeMap::new(),
                standby,
                containers: BTreeMap::new(),
                spans,
                agent_calls: None,
            }),
            changed: Notify::new(),
            sizing: tokio::sync::Mutex::default(),
            counts: Counts::default(),
        };
        sandbox.saved().write(&sandbox.dir)?;
        Ok(Arc::new(sandbox))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one step: one that panicked left no half of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits, and the disk.
    fn note(&self) {
        self.changed.notify_waiters();
        if let Err(e) = self.saved().write(&self.dir) {
            log::warn!("{}", e.chain());
        }
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let found = look(&mut self.state());
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }

    /// The machine has ended, or is about to.
    fn ending(&self) -> bool {
        self.state().ending()
    }

    /// Brings the machine up and leaves it to its keeper.
    async fn boot(self: &Arc<Self>, bundle: &Bundle) -> Result<()> {
        let size = self.plan.size(bundle.resources());
        let (standby, mut spans) = {
            let mut state = self.state();
            (state.standby.take(), state.spans.clone())
        };
        let launched = Running::launch(
            &self.plan,
            size,
            &self.dir,
            self.share.path(),
            Resolver::new(&self.dir, bundle),
            standby,
            &mut spans,
        )
        .await;
        let (running, guest, line) = match launched {
            Ok(launched) => launched,
            Err(e) => {
                self.state().phase = Phase::Down(Some(e.chain()));
                return Err(e);
            }
        };
        let (machine, device) = running.save();
        let (stop, stopped) = oneshot::channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let up = Up {
            guest: guest.clone(),
            machine,
            device,
            line,
            extent: Extent::new(size, running.machine().later()),
            disks: 0,
            orders,
            stop,
        };
        let mut state = self.state();
        spans.join(&state.spans);
        state.spans = spans;
        state.agent_calls = Some(guest.durations());
        state.phase = Phase::Up(up);
        drop(state);
        self.note();
        let sandbox = Arc::clone(self);
        tokio::spawn(async move { sandbox.events(&guest).await });
        let sandbox = Arc::clone(self);
        tokio::spawn(async move { sandbox.keep(running, ordered, stopped).await });
        Ok(())
    }

    /// Owns the machine until its end.
    async fn keep(
        self: Arc<Self>,
        mut running: Running,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut stop: oneshot::Receiver<Option<String>>,
    ) {
        let guest = self.guest();
        let stopped = loop {
            tokio::select! {
                reason = running.ended() => break Err(reason),
                stop = &mut stop => break Ok(stop.ok().flatten()),
                Some(order) = orders.recv() => order.carry_out(running.machine_mut()).await,
            }
        };
        // Whoever waits for an answer gets none.
        drop(orders);
        let reason = match stopped {
            Err(reason) => Some(reason),
            Ok(Some(lost)) => {
                let ended = tokio::time::timeout(LAG, running.ended()).await;
                running.kill().await;
                Some(ended.unwrap_or(lost))
            }
            Ok(None) => {
                if let Ok(guest) = guest {
                    tokio::select! {
                        done = guest.shutdown(LAST_WRITES) => {
                            if let Err(e) = done {
                                log::warn!("shut the guest down: {}", e.chain());
                            }
                        }
                        reason = running.ended() => log::debug!("{reason}"),
                    }
                }
                running.kill().await;
                None
            }
        };
        drop(running);
        if let Some(reason) = &reason {
            log::error!("the machine of sandbox {} is lost: {reason}", self.id);
        }
        let mut state = self.state();
        let told = reason.as_deref().unwrap_or("the machine was shut down");
        for process in state
            .containers
            .values_mut()
            .flat_map(|container| container.processes.values_mut())
        {
            if process.alive() {
                process.end(Exit::lost(told));
            }
        }
        state.phase = Phase::Down(reason);
        drop(state);
        self.note();
    }

    /// Waits for the end of a process and records it.
    async fn follow(self: Arc<Self>, guest: Guest, id: String, exec_id: String) {
        match guest.wait(&id, &exec_id).await {
            Ok(ended) => {
                let mut state = self.state();
                let process = state
                    .containers
                    .get_mut(&id)
                    .and_then(|found| found.processes.get_mut(&exec_id));
                if let Some(process) = process {
                    process.end(Exit {
                        status: ended.exit_status,
                        at_ns: ended.exited_at_ns,
                        reason: ended.oom_killed.then(|| "killed for want of memory (OOM)".to_owned()),
                    });
                }
                drop(state);
                self.note();
                self.stop_if_over();
            }
            // The keeper knows better why, if the machine has ended.
            Err(e) => self.stop(Some(format!("the agent does not answer: {}", e.chain()))),
        }
    }

    /// Takes the guest's events until its end. They are of containers: it is not asked while it makes the first one.
    async fn events(self: Arc<Self>, guest: &Guest) {
        let begun =
            |state: &mut State| state.ending() || state.containers.values().any(|container| !container.making());
        self.until(|state| begun(state).then_some(())).await;
        while let Ok(event) = guest.event().await {
            let Some(event::Kind::Oom(oom)) = event.kind else {
                continue;
            };
            log::warn!(
                "container {}: {} processes killed for want of memory so far",
                event.id,
                oom.count
            );
            if let Some(container) = self.state().containers.get_mut(&event.id) {
                container.oom_kills = oom.count;
            }
            self.note();
        }
    }

    /// The connection to the agent. Errors: `Gone` with the reason.
    fn guest(&self) -> Result<Guest> {
        match &self.state().phase {
            Phase::Up(up) => Ok(up.guest.clone()),
            Phase::Absent | Phase::Booting => Err(Error::new(Kind::State, "the sandbox is not up yet")),
            Phase::Down(None) => Err(Error::new(Kind::Gone, "the machine of the sandbox was shut down")),
            Phase::Down(Some(reason)) => {
                Err(Error::new(Kind::Gone, "the machine of the sandbox has ended").because(reason.as_str()))
            }
        }
    }

    fn line(&self) -> Option<Line> {
        match &self.state().phase {
            Phase::Up(up) => up.line.clone(),
            _ => None,
        }
    }

    /// The guest, and one of its containers looked at first.
    fn guest_of(&self, id: &str, look: impl FnOnce(&mut Container) -> Result<()>) -> Result<Guest> {
        look(self.state().container(id)?)?;
        self.guest()
    }

    /// Ends the machine when nothing runs in it and nobody reads from it.
    fn stop_if_over(&self) {
        let over = {
            let state = self.state();
            let mut all = state.containers.values();
            !state.containers.is_empty()
                && state.expected.is_empty()
                && all.all(|container| container.ended() && container.deserted())
        };
        if over {
            self.stop(None);
        }
    }

    /// Ends the machine, for good or because of a failure; returns at once.
    fn stop(&self, lost: Option<String>) {
        let mut state = self.state();
        match std::mem::replace(&mut state.phase, Phase::Absent) {
            Phase::Up(Up {
                guest,
                machine,
                device,
                line,
                extent,
                disks,
                orders,
                stop,
            }) => {
                // Whoever needs the guest meanwhile still has it; the keeper says when it is down.
                let (used, _) = oneshot::channel();
                let _ = stop.send(lost);
                state.phase = Phase::Up(Up {
                    guest,
                    machine,
                    device,
                    line,
                    extent,
                    disks,
                    orders,
                    stop: used,
                });
            }
            Phase::Absent => state.phase = Phase::Down(None),
            other => state.phase = other,
        }
        drop(state);
        self.note();
    }

    /// Waits until the machine has ended; the reason, if we did not want it.
    pub async fn down(&self) -> Option<String> {
        self.until(|state| match &state.phase {
            Phase::Down(reason) => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    /// Ends everything, in order; for a monitor that is told to go.
    pub async fn close(&self) {
        if matches!(self.state().phase, Phase::Booting) {
            return;
        }
        self.stop(None);
        self.down().await;
    }

    /// For the disk, and for `Inspect`.
    pub fn saved(&self) -> Saved {
        let state = self.state();
        let (phase, up, reason) = match &state.phase {
            Phase::Absent | Phase::Booting => ("starting", None, None),
            Phase::Up(up) => ("up", Some(up), None),
            Phase::Down(reason) => ("down", None, reason.clone()),
        };
        let containers = state.containers.iter().map(|(id, container)| {
            let init = container.processes.get("");
            let saved = SavedContainer {
                bundle: container.bundle.display().to_string(),
                status: container.status().to_string(),
                exit: init.and_then(Process::exit).cloned(),
                carriers: container.carriers().collect(),
                oom_kills: container.oom_kills,
            };
            (id.clone(), saved)
        });
        Saved {
            id: self.id.clone(),
            phase: phase.to_owned(),
            machine: up.map(|up| saved::Machine(up.machine.clone())),
            device: up.and_then(|up| up.device.clone()),
            reason,
            containers: containers.collect(),
            begun: state.spans.begun(),
            spans: state.spans.steps().to_vec(),
        }
    }
}

impl State {
    fn ending(&self) -> bool {
        match &self.phase {
            Phase::Absent | Phase::Booting => false,
            Phase::Up(up) => up.stop.is_closed(),
            Phase::Down(_) => true,
        }
    }

    /// The container whose namespace is meant by `named`; its own answer is none when `id` is to have a new one. None while that
    /// container is being made.
    fn owner(&mut self, id: &str, kind: &str, named: &Named) -> Option<Result<Option<String>>> {
        let owner = self.containers.iter().find(|(other, container)| match named {
            Named::Process(pid) => container.carried_by(*pid),
            Named::Prepared(identity) => {
                *other != id && !container.ended() && container.prepared.get(kind) == Some(identity)
            }
        });
        match (owner, named) {
            (Some((_, owner)), _) if owner.making() => None,
            (Some((owner, container)), _) if container.ended() => {
                let what = format!("container {owner}, whose it is, has ended");
                Some(Err(Error::new(Kind::State, what)))
            }
            (Some((owner, _)), _) => Some(Ok(Some(owner.clone()))),
            (None, Named::Process(pid)) => {
                let what = format!("that of process {pid}");
                Some(Err(Error::new(Kind::Unsupported, what).because(namespace::HOST)))
            }
            (None, Named::Prepared(identity)) => {
                if let Some(own) = self.containers.get_mut(id) {
                    own.prepared.insert(kind.to_owned(), *identity);
                }
                Some(Ok(None))
            }
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        let missing = || Error::new(Kind::NotFound, format!("container {id} does not exist"));
        self.containers.get_mut(id).ok_or_else(missing)
    }
}

#[cfg(test)]
#[path = "sandbox_test.rs"]
mod tests;
