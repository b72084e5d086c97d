// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The life of tasks: what changes one, by the functions of the command line, and what is told of it.
//!
//! ```text
//! create ──► kata monitor, kata shim ──► follow: waits for the shim's end, notes and tells it
//! exec, then start ──► kata shim ──► follow
//! ```
//!
//! The functions of the command line wait: they run in threads of their own, which are few and short.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::monitor::OomRequest;
use api::task::api::{CreateTaskRequest, DeleteRequest, ExecProcessRequest};
use api::task::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed,
    TaskStart,
};
use api::task::shim::oci::Options;
use api::task::topics;
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci::Bundle;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use sandbox::end_of;
use tokio::sync::Notify;

use super::container::{Container, Containers, Exit, Process};
use super::io::{Opened, Places};
use super::monitor::{Monitor, patient, told};
use super::pod::Pod;
use super::publisher::Publisher;
use super::{now, options};
use crate::berth;
use crate::link::Link;
use crate::runtime::container::Container as Record;
use crate::runtime::create::{Given, Made};
use crate::runtime::{Globals, delete, exec, verbs};
use crate::shim::{Launch, Pids, Streams};

/// How long the shim of a process may take to end after that one.
pub const LAST_OUTPUT: Duration = Duration::from_secs(20);
/// How long a program that takes output may go on after the process.
const LAST_LINES: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Tasks {
    globals: Globals,
    namespace: String,
    /// Never held across an await or a call that may wait.
    containers: Mutex<Containers>,
    /// The pod that containerd leaves to us, if it does.
    pod: Mutex<Option<Pod>>,
    /// Monitors that somebody waits for.
    monitors: Mutex<BTreeSet<i32>>,
    pub publisher: Publisher,
    /// See [`Tasks::leave`].
    pub over: Notify,
}

/// What a new process brings along.
#[derive(Debug)]
pub struct Begun {
    pub shim: Pidfd,
    opened: Opened,
}

impl Tasks {
    pub fn new(globals: Globals, namespace: &str, publisher: Publisher) -> Arc<Tasks> {
        Arc::new(Tasks {
            globals,
            namespace: namespace.to_owned(),
            containers: Mutex::default(),
            pod: Mutex::default(),
            monitors: Mutex::default(),
            publisher,
            over: Notify::new(),
        })
    }

    /// The table.
    pub fn containers(&self) -> MutexGuard<'_, Containers> {
        // Every change is one step: one that panicked left no half of it.
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pod(&self) -> MutexGuard<'_, Option<Pod>> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// The directory of the sandbox that a container lives in.
    pub fn sandbox_of(&self, id: &str) -> PathBuf {
        berth::sandbox(&self.globals.root.join(id))
    }

    fn monitors(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.monitors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The monitor of a container.
    pub fn monitor(&self, id: &str) -> Result<Arc<Monitor>> {
        let mut containers = self.containers();
        let container = containers.find(id)?;
        if let Some(monitor) = &container.monitor {
            return Ok(Arc::clone(monitor));
        }
        let monitor = Arc::new(Monitor::open(&self.sandbox_of(id))?);
        Ok(Arc::clone(container.monitor.insert(monitor)))
    }

    /// Makes a container and its init, which waits for `start`. The answer is its pid.
    pub async fn create(self: &Arc<Self>, request: CreateTaskRequest) -> Result<u32> {
        base::id::check(&request.id)?;
        if !request.checkpoint.is_empty() {
            return Err(Error::new(Kind::Unsupported, "restore a container from a checkpoint"));
        }
        if self.containers().contains(&request.id) {
            return Err(Error::new(
                Kind::Exists,
                format!("container {} exists already", request.id),
            ));
        }
        let places = Places::from(&request);
        let (tasks, wanted) = (Arc::clone(self), request.clone());
        let begun = apart(move || tasks.make(&wanted, false)).await;
        let (begun, owner) = begun.attempt(|| "OCI runtime create failed".into())?;
        self.reap_monitor(owner);
        let mut init = Process::new(places.clone());
        init.pid = begun.shim.pid().cast_unsigned();
        init.input = begun.opened.input;
        let (pid, id) = (init.pid, request.id.clone());
        let container = Container {
            bundle: request.bundle.clone(),
            monitor: None,
            processes: [(String::new(), init)].into(),
            oom_kills: 0,
        };
        self.containers().insert(&id, container);
        let event = TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIO {
                stdin: places.stdin,
                stdout: places.stdout,
                stderr: places.stderr,
                terminal: places.terminal,
                ..TaskIO::default()
            })
            .into(),
            pid,
            ..TaskCreate::default()
        };
        self.publisher.publish(topics::TASK_CREATE_EVENT_TOPIC, &event);
        tokio::spawn(Arc::clone(self).follow(id.clone(), String::new(), begun.shim, begun.opened.logger));
        tokio::spawn(Arc::clone(self).watch_memory(id));
        Ok(pid)
    }

    /// Waits. The second part of the answer is the sandbox's monitor. `pause`: the container only holds namespaces for others.
    pub fn make(&self, request: &CreateTaskRequest, pause: bool) -> Result<(Begun, Pidfd)> {
        let bundle = self.open_bundle(Path::new(&request.bundle))?;
        let globals = Globals {
            systemd_cgroup: by_systemd(&bundle, request.options.as_ref()),
            settings: options::settings(&self.globals.settings.selection, request.options.as_ref())?,
            ..self.globals.clone()
        };
        let mut opened = Places::from(request).open(&self.namespace, &request.id)?;
        let streams = std::mem::take(&mut opened.streams);
        let given = Given {
            rootfs: request.rootfs.clone(),
            streams: Streams(streams.each_ref().map(Option::is_some)),
            pause,
        };
        let made = Made::new(&globals, &request.id, &bundle, given, &|_| Ok(()))?;
        let launch = Launch {
            stdio: Some(streams),
            ..made.launch(None)
        };
        let owner = Link::open(&made.sandbox())?.monitor()?;
        let owner = Pidfd::open(owner)?;
        let shim = held(made.leave(launch, None)?)?;
        Ok((Begun { shim, opened }, owner))
    }

    /// A monitor is a child of ours, once for all containers of its sandbox.
    pub fn reap_monitor(self: &Arc<Self>, monitor: Pidfd) {
        if !self.monitors().insert(monitor.pid()) {
            return;
        }
        let tasks = Arc::clone(self);
        tokio::spawn(async move {
            end_of(&monitor).await;
            if let Err(e) = monitor.reap() {
                log::debug!("{}", e.chain());
            }
            tasks.monitors().remove(&monitor.pid());
        });
    }

    /// Makes a further process known, for [`Tasks::start`].
    pub async fn exec(self: &Arc<Self>, mut request: ExecProcessRequest) -> Result<()> {
        let (id, exec_id) = (request.id.clone(), request.exec_id.clone());
        let places = Places::from(&request);
        if self.containers().find(&id)?.processes.contains_key(&exec_id) {
            return Err(Error::new(Kind::Exists, format!("process {exec_id} exists already")));
        }
        let (tasks, name) = (Arc::clone(self), id.clone());
        apart(move || exec::check(&Record::find(&tasks.globals.root, &name)?, false)).await?;
        let monitor = self.monitor(&id)?;
        // The monitor says what is wrong with one that cannot be read.
        let command =
            serde_json::from_slice(&request.spec.value).map_or_else(|_| Vec::new(), |spec| exec::command(&spec));
        let streams = Streams([&places.stdin, &places.stdout, &places.stderr].map(|place| !place.is_empty()));
        [request.stdin, request.stdout, request.stderr] = exec::places(streams, request.terminal).map(str::to_owned);
        told(&id, monitor.task.exec(patient(), &request).await)?;
        let mut containers = self.containers();
        let container = containers.find(&id)?;
        let mut process = Process::new(places);
        process.command = command;
        container.processes.insert(exec_id.clone(), process);
        drop(containers);
        let event = TaskExecAdded {
            container_id: id,
            exec_id,
            ..TaskExecAdded::default()
        };
        self.publisher.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Starts an init that was created, or a process that was made known. The answer is its pid.
    pub async fn start(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<u32> {
        let order = Arc::clone(&self.containers().process(id, exec_id)?.order);
        let _order = order.lock().await;
        if exec_id.is_empty() {
            let (tasks, name) = (Arc::clone(self), id.to_owned());
            let started = apart(move || verbs::start(&tasks.globals, &name)).await;
            started.attempt(|| "OCI runtime start failed".into())?;
            let pid = {
                let mut containers = self.containers();
                let init = containers.process(id, "")?;
                init.started = true;
                init.pid
            };
            let event = TaskStart {
                container_id: id.to_owned(),
                pid,
                ..TaskStart::default()
            };
            self.publisher.publish(topics::TASK_START_EVENT_TOPIC, &event);
            return Ok(pid);
        }
        let (places, command) = {
            let mut containers = self.containers();
            let process = containers.process(id, exec_id)?;
            if process.pid != 0 {
                return Err(Error::new(Kind::State, format!("process {exec_id} was started before")));
            }
            (process.places.clone(), process.command.clone())
        };
        let (tasks, name, exec) = (Arc::clone(self), id.to_owned(), exec_id.to_owned());
        let begun = apart(move || tasks.join(&name, &exec, &places, command)).await;
        let begun = begun.attempt(|| "OCI runtime exec failed: exec failed".into());
        if begun.is_err()
            && let Ok(process) = self.containers().process(id, exec_id)
        {
            // containerd waits for its end before it deletes it.
            let status = super::NEVER_RAN;
            process.exit.send_replace(Some(Exit { status, at: now() }));
        }
        let begun = begun?;
        let pid = begun.shim.pid().cast_unsigned();
        {
            let mut containers = self.containers();
            let process = containers.process(id, exec_id)?;
            (process.pid, process.started, process.input) = (pid, true, begun.opened.input);
        }
        let event = TaskExecStarted {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            ..TaskExecStarted::default()
        };
        self.publisher.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        let follow = Arc::clone(self).follow(id.to_owned(), exec_id.to_owned(), begun.shim, begun.opened.logger);
        tokio::spawn(follow);
        Ok(pid)
    }

    /// Waits until the process runs.
    fn join(&self, id: &str, exec_id: &str, places: &Places, command: Vec<String>) -> Result<Begun> {
        let container = Record::find(&self.globals.root, id)?;
        let mut opened = places.open(&self.namespace, id)?;
        let launch = Launch {
            dir: container.dir().to_owned(),
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            command,
            pids: Pids::Callers,
            terminal: places.terminal,
            console: None,
            size: None,
            log: self.globals.log.clone(),
            record: None,
            stdio: Some(std::mem::take(&mut opened.streams)),
        };
        let shim = launch.start()?;
        let process = held(shim.pid())?;
        shim.release();
        Ok(Begun { shim: process, opened })
    }

    /// Waits for the end of a process's shim, which has passed on all output by then.
    async fn follow(self: Arc<Self>, id: String, exec_id: String, shim: Pidfd, logger: Option<Pidfd>) {
        end_of(&shim).await;
        let status = match shim.reap() {
            Ok(code) => u32::from(code),
            Err(e) => {
                log::error!("{}", e.chain());
                super::LOST
            }
        };
        if let Some(logger) = logger {
            tokio::spawn(last_lines(logger));
        }
        let exit = Exit { status, at: now() };
        let order = match self.containers().process(&id, &exec_id) {
            Ok(process) => Arc::clone(&process.order),
            Err(e) => return log::debug!("{}", e.chain()),
        };
        let _order = order.lock().await;
        if exec_id.is_empty() {
            // It comes with the end, and is told before it.
            self.look_for_memory(&id).await;
        }
        let event = TaskExit {
            container_id: id.clone(),
            id: if exec_id.is_empty() {
                id.clone()
            } else {
                exec_id.clone()
            },
            pid: shim.pid().cast_unsigned(),
            exit_status: status,
            exited_at: exit.at.clone(),
            ..TaskExit::default()
        };
        self.publisher.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
        if let Ok(process) = self.containers().process(&id, &exec_id) {
            process.input = None;
            process.exit.send_replace(Some(exit));
        }
    }

    /// Tells of kills for want of memory until the container has gone.
    async fn watch_memory(self: Arc<Self>, id: String) {
        while let Ok(monitor) = self.monitor(&id) {
            let seen = self.containers().find(&id).map_or(0, |container| container.oom_kills);
            let request = OomRequest {
                id: id.clone(),
                seen,
                ..OomRequest::default()
            };
            match monitor.own.oom(patient(), &request).await {
                Ok(answer) => self.note_memory(&id, answer.kills),
                Err(_) => return,
            }
        }
    }

    async fn look_for_memory(&self, id: &str) {
        let Ok(monitor) = self.monitor(id) else {
            return;
        };
        let request = OomRequest {
            id: id.to_owned(),
            // No number that can be: the answer comes at once.
            seen: u64::MAX,
            ..OomRequest::default()
        };
        if let Ok(answer) = monitor.own.oom(patient(), &request).await {
            self.note_memory(id, answer.kills);
        }
    }

    fn note_memory(&self, id: &str, kills: u64) {
        match self.containers().find(id) {
            Ok(container) if container.oom_kills != kills => container.oom_kills = kills,
            _ => return,
        }
        let event = TaskOOM {
            container_id: id.to_owned(),
            ..TaskOOM::default()
        };
        self.publisher.publish(topics::TASK_OOM_EVENT_TOPIC, &event);
    }

    pub async fn pause(self: &Arc<Self>, id: &str) -> Result<()> {
        self.containers().find(id)?;
        let (tasks, name) = (Arc::clone(self), id.to_owned());
        apart(move || verbs::pause(&tasks.globals, &name)).await?;
        let event = TaskPaused {
            container_id: id.to_owned(),
            ..TaskPaused::default()
        };
        self.publisher.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub async fn resume(self: &Arc<Self>, id: &str) -> Result<()> {
        self.containers().find(id)?;
        let (tasks, name) = (Arc::clone(self), id.to_owned());
        apart(move || verbs::resume(&tasks.globals, &name)).await?;
        let event = TaskResumed {
            container_id: id.to_owned(),
            ..TaskResumed::default()
        };
        self.publisher.publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Waits for the end of a process.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let mut exit = self.containers().process(id, exec_id)?.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok();
        let ended = ended.and_then(|exit| exit.clone());
        ended.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("process {exec_id} of container {id} was deleted"),
            )
        })
    }

    /// Forgets a process that does not run, or with no exec id the container. The answer is its pid and how it ended.
    pub async fn delete(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<(u32, Exit)> {
        let (pid, started, ended) = {
            let mut containers = self.containers();
            let process = containers.process(id, exec_id)?;
            (process.pid, process.started, process.ended())
        };
        if started && ended.is_none() {
            return Err(Error::new(Kind::State, "cannot delete a running process"));
        }
        let nothing = || Exit { status: 0, at: now() };
        if !exec_id.is_empty() {
            if !started {
                let request = DeleteRequest {
                    id: id.to_owned(),
                    exec_id: exec_id.to_owned(),
                    ..DeleteRequest::default()
                };
                let monitor = self.monitor(id)?;
                if let Err(e) = told(id, monitor.task.delete(patient(), &request).await) {
                    log::debug!("{}", e.chain());
                }
            }
            self.containers().find(id)?.processes.remove(exec_id);
            return Ok((pid, ended.unwrap_or_else(nothing)));
        }
        // The monitor ends when its clients have left.
        self.containers().find(id)?.monitor = None;
        let (tasks, name) = (Arc::clone(self), id.to_owned());
        apart(move || delete::delete(&tasks.globals, &name, false)).await?;
        let exit = tokio::time::timeout(LAST_OUTPUT, self.wait(id, "")).await;
        let exit = exit.ok().and_then(Result::ok).unwrap_or_else(nothing);
        self.containers().remove(id);
        let event = TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: exit.at.clone(),
            ..TaskDelete::default()
        };
        self.publisher.publish(topics::TASK_DELETE_EVENT_TOPIC, &event);
        Ok((pid, exit))
    }

    /// Has us end, if no container is left: containerd asks for that after each container of a pod.
    pub fn leave(&self) {
        if self.containers().ids().is_empty() && self.pod().is_none() {
            self.over.notify_one();
        }
    }

    /// Takes everything down.
    pub async fn close(self: &Arc<Self>) {
        let ids = self.containers().ids();
        for id in ids {
            let (tasks, name) = (Arc::clone(self), id.clone());
            if let Err(e) = apart(move || delete::delete(&tasks.globals, &name, true)).await {
                log::error!("delete container {id}: {}", e.chain());
            }
            let _ = tokio::time::timeout(LAST_OUTPUT, self.wait(&id, "")).await;
        }
    }
}

/// Runs what waits in a thread of its own.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.context(Kind::Bug, || "wait for a thread".into())?
}

/// A child of ours, which is not reaped yet: the pid is its own.
fn held(pid: u32) -> Result<Pidfd> {
    Pidfd::open(pid.cast_signed())
}

/// Its input has ended with the process.
async fn last_lines(logger: Pidfd) {
    if tokio::time::timeout(LAST_LINES, end_of(&logger)).await.is_err() {
        log::warn!(
            "the logging program, process {}, does not end: it is killed",
            logger.pid()
        );
        if let Err(e) = logger.signal(libc::SIGKILL) {
            log::debug!("{}", e.chain());
        }
        end_of(&logger).await;
    }
    if let Err(e) = logger.reap() {
        log::debug!("{}", e.chain());
    }
}

/// Whether the container's control group is named as systemd does: the options of runc say so, those of Kubernetes only the name.
fn by_systemd(bundle: &Bundle, options: Option<&Any>) -> bool {
    let runc = options.filter(|options| options.type_url.ends_with("containerd.runc.v1.Options"));
    if let Some(options) = runc.and_then(|options| Options::parse_from_bytes(&options.value).ok()) {
        return options.systemd_cgroup;
    }
    let linux = bundle.spec().linux().as_ref();
    let path: Option<&PathBuf> = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let path = path.map(|path| path.to_string_lossy());
    path.is_some_and(|path| !path.starts_with('/') && path.split(':').count() == 3)
}
