// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One container with its processes, as calls of the host see it. All may block for milliseconds. It does not know how the calls
//! come in.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use api::agent::{CreateContainerRequest, ExecProcessRequest, SignalProcessRequest, Stdio as Wanted};
use base::{Context, Error, Kind, Result};
use guest::{Attachment, Create, Disk, Join, LinuxNamespaceType, Nests, namespace, table, validate};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::events::Events;
use crate::holdings::Holdings;
use crate::lock::lock;
use crate::process::Process;
use crate::reaper::{OomKilled, Reaper};
use crate::registry::Registry;
use crate::stdio::Stdio;

/// Name of the first process.
const INIT: &str = "";

/// See above.
#[derive(Debug)]
pub struct Container {
    inner: Arc<guest::Container>,
    init: Arc<Process>,
    processes: Registry<Process>,
    reaper: Arc<Reaper>,
    events: Arc<Events>,
    oom: Option<JoinHandle<()>>,
    paused: AtomicBool,
    /// Set when removal begins: nothing is launched any more.
    closed: AtomicBool,
    /// Read while a process is launched. Taken before no other.
    launching: RwLock<()>,
    /// Held by the one who removes, with what goes then. Taken before `launching`.
    removing: Mutex<Holdings>,
}

impl Container {
    /// Makes it, with its init waiting to be started. Needs the runtime.
    pub fn create(
        request: &CreateContainerRequest,
        attachments: Vec<Attachment>,
        namespaces: Vec<Join>,
        (held, disks): (Holdings, Vec<Disk>),
        nests: &Nests,
        reaper: &Arc<Reaper>,
        events: &Arc<Events>,
    ) -> Result<Container> {
        let spec = validate::parse(&request.spec)?;
        let terminal = spec.process().as_ref().and_then(|process| process.terminal());
        let (theirs, ours) = stdio(request.stdio.as_ref(), terminal)?;
        let launch = reaper.launch();
        let wanted = Create {
            id: request.id.clone(),
            spec,
            attachments,
            namespaces,
            disks,
            stdio: theirs,
            pause: request.pause,
        };
        let (inner, process) = guest::Container::create(wanted, nests)?;
        let inner = Arc::new(inner);
        let init = Arc::new(Process::new(launch, process, ours, oom_killed(&inner)));
        let processes = Registry::new("process");
        processes.reserve(INIT)?.fill(Arc::clone(&init));
        let watch = match inner.oom_watch() {
            Ok(watch) => Some(watch),
            Err(e) => {
                log::warn!("OOM kills of container {} are not told: {}", request.id, e.chain());
                None
            }
        };
        let follow = |watch| Handle::current().spawn(Arc::clone(events).follow(request.id.clone(), watch));
        Ok(Container {
            inner,
            init,
            processes,
            reaper: Arc::clone(reaper),
            events: Arc::clone(events),
            oom: watch.map(follow),
            paused: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            launching: RwLock::new(()),
            removing: Mutex::new(held),
        })
    }

    /// The pid of its init.
    pub fn pid(&self) -> i32 {
        self.init.pid()
    }

    /// The namespace of a type that its init is in. Errors: `Gone` when that has ended.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Result<OwnedFd> {
        let pid = self.pid();
        self.reaper.with(pid, || namespace::of(pid, kind))
    }

    /// The root directory that its init sees. Errors: `Gone` when that has ended.
    pub fn root(&self) -> Result<OwnedFd> {
        let pid = self.pid();
        self.reaper.with(pid, || table::root(pid))
    }

    /// The library's view of it.
    pub fn inner(&self) -> &guest::Container {
        &self.inner
    }

    /// A process by its name.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        self.processes.get(exec_id).attempt(|| self.named())
    }

    fn named(&self) -> String {
        format!("container {}", self.inner.id())
    }

    fn wrong_state<T>(&self, why: &str) -> Result<T> {
        Err(Error::new(Kind::State, format!("{} {why}", self.named())))
    }

    /// Executes the init's program.
    pub fn start(&self) -> Result<()> {
        self.inner.start()
    }

    /// Starts a further process; its pid. Errors: `Gone` when the init has ended, `State` while it is paused.
    pub fn exec(&self, request: &ExecProcessRequest) -> Result<i32> {
        let name = request.exec_id.as_str();
        base::id::check(name).context(Kind::Invalid, || format!("name a process {name:?}"))?;
        let wanted = validate::parse_process(&request.process)?;
        let reserved = self.processes.reserve(name).attempt(|| self.named())?;
        let _launching = self.launching.read().unwrap_or_else(PoisonError::into_inner);
        if self.init.exit().is_some() || self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Gone, format!("{} has ended", self.named())));
        }
        // It would freeze before it is there.
        if self.paused.load(Ordering::SeqCst) {
            return self.wrong_state("is paused");
        }
        let (theirs, ours) = stdio(request.stdio.as_ref(), wanted.terminal())?;
        let launch = self.reaper.launch();
        let process = self.inner.exec(wanted, theirs)?;
        let process = Process::new(launch, process, ours, oom_killed(&self.inner));
        let pid = process.pid();
        reserved.fill(Arc::new(process));
        Ok(pid)
    }

    /// Signals one process, or all. Errors: `Gone` when it has ended.
    pub fn signal(&self, request: &SignalProcessRequest) -> Result<()> {
        let signal = i32::try_from(request.signal).ok();
        let signal = signal.filter(|signal| (0..=libc::SIGRTMAX()).contains(signal));
        let Some(signal) = signal else {
            return Err(Error::new(
                Kind::Invalid,
                format!("signal {} does not exist", request.signal),
            ));
        };
        if request.all {
            return self.inner.signal_all(signal);
        }
        let pid = self.process(&request.exec_id)?.pid();
        self.reaper.with(pid, || self.inner.signal(pid, signal))
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<()> {
        self.inner.pause()?;
        self.paused.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Thaws it.
    pub fn resume(&self) -> Result<()> {
        self.inner.resume()?;
        self.paused.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Changes its limits; `resources` is JSON.
    pub fn update(&self, resources: &[u8]) -> Result<()> {
        let resources = serde_json::from_slice(resources).context(Kind::Invalid, || "read the resources".into())?;
        self.inner.update(&resources)
    }

    /// Forgets a process that has ended.
    pub fn forget(&self, exec_id: &str) -> Result<()> {
        if exec_id == INIT {
            let what = format!("the init of {} goes with it", self.named());
            return Err(Error::new(Kind::Invalid, what));
        }
        if self.process(exec_id)?.exit().is_none() {
            return self.wrong_state(&format!("still runs process {exec_id}"));
        }
        self.processes.remove(exec_id);
        Ok(())
    }

    /// The processes that the host started and that have not ended: name and pid.
    pub fn names(&self) -> Vec<(String, i32)> {
        let all = self.processes.all().into_iter();
        let alive = all.filter(|(_, process)| process.exit().is_none());
        alive.map(|(name, process)| (name, process.pid())).collect()
    }

    /// Takes it away with all that runs in it. Errors: `State` when its init runs and `force` is not set; `Timeout` when a process
    /// cannot be killed.
    pub fn remove(&self, force: bool) -> Result<()> {
        let held = lock(&self.removing);
        if !force && self.init.exit().is_none() {
            return self.wrong_state("runs");
        }
        self.close(held, guest::Container::remove)
    }

    /// Ends all that runs in it, in a guest that is about to end. Errors: as [`Container::remove`].
    pub fn end(&self) -> Result<()> {
        self.close(lock(&self.removing), guest::Container::end)
    }

    fn close(&self, mut held: MutexGuard<'_, Holdings>, how: fn(&guest::Container) -> Result<()>) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        // First of all, so that launches that are under way, even in a frozen container, come to an end.
        if let Err(e) = self.inner.signal_all(libc::SIGKILL) {
            log::debug!("{}", e.chain());
        }
        drop(self.launching.write());
        self.events.oom(self.inner.id(), self.inner.oom_count());
        how(&self.inner)?;
        held.release();
        if let Some(oom) = &self.oom {
            oom.abort();
        }
        Ok(())
    }
}

fn stdio(wanted: Option<&Wanted>, terminal: Option<bool>) -> Result<(guest::Stdio, Stdio)> {
    Stdio::make(wanted.unwrap_or(&Wanted::default()), terminal.unwrap_or(false))
}

fn oom_killed(container: &Arc<guest::Container>) -> OomKilled {
    let container = Arc::clone(container);
    Box::new(move || container.oom_count() > 0)
}
