// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Brings a machine up with its device process, and keeps both until one of them ends: then neither is left.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use machine::template::{Store, Template};
use machine::{Backend, Machine, MachineSpec, NicSpec, SavedMachine, host};
use net::Network;
use oci::pod::Budget;
use oci::spec::LinuxResources;
use tokio::net::UnixListener;

use crate::device::{self, DeviceProcess};
use crate::guest::Guest;
use crate::network::{self, Line};
use crate::passt::Passt;
use crate::resolver::Resolver;
use crate::saved::SavedProcess;
use crate::size::{self, Limits, Measure, Size};
use crate::span::Spans;
use crate::standby::Standby;
use crate::sys;
use crate::turn::Queue;

/// How long others may take to answer.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The hypervisor, on its control channel.
    pub hypervisor: Duration,
    /// The agent, to a call.
    pub agent: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            hypervisor: Duration::from_secs(30),
            agent: Duration::from_secs(60),
        }
    }
}

/// How long after its connections the end of a process is seen.
const LAG: Duration = Duration::from_millis(100);

/// How the machine of a sandbox is made.
#[derive(Debug)]
pub struct Blueprint {
    /// The hypervisor.
    pub backend: Box<dyn Backend>,
    /// Its executable, where it is not the one that the backend finds.
    pub binary: Option<PathBuf>,
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Uncompressed initramfs with the agent.
    pub initramfs: PathBuf,
    /// Added to the kernel's command line.
    pub kernel_params: String,
    /// What all containers may use together, where the first one begins a pod.
    pub pod: Option<Budget>,
    /// In place of what the container's limits ask for.
    pub vcpus: Option<u32>,
    /// In place of what the container's limits ask for, MiB.
    pub memory_mib: Option<u64>,
    /// What sizes go by beside limits.
    pub measure: Measure,
    /// With the hypervisor and the agent.
    pub patience: Patience,
    /// The network namespace in which we live; none: the machine has no network.
    pub network: Option<net::Place>,
    /// In its place, the process behind the machine's only network device; the machine takes it.
    pub passt: Mutex<Option<Passt>>,
    /// How long the guest may take to come up.
    pub deadline: Duration,
    /// Where the first container waits until the machine may begin; none: it does not.
    pub queue: Option<Queue>,
    /// The program whose role `device` serves the devices: our own.
    pub program: PathBuf,
    /// A frozen guest to begin with instead of booting.
    pub template: Option<Template>,
}

impl Blueprint {
    /// The size of the machine whose first container has these limits.
    pub fn size(&self, resources: Option<&LinuxResources>) -> Size {
        let cpus = processors();
        let own = size::of(&[Limits::of(resources)], self.measure.usual, cpus);
        let asked = match self.pod {
            // An engine may put the limits of the whole on the first container.
            Some(budget) => size::of_pod(budget, self.measure.usual, cpus).or_more(own),
            None => own,
        };
        Size {
            vcpus: self.vcpus.unwrap_or(asked.vcpus),
            memory_mib: self.memory_mib.unwrap_or(asked.memory_mib),
        }
    }

    /// The size of the machine for these containers, when it runs already: never below what it was to begin with.
    pub fn size_of(&self, all: &[Limits], begun: Size) -> Size {
        let asked = size::of(all, self.measure.usual, processors());
        // A pod's size is for containers that are still to come.
        let least = if self.pod.is_some() {
            begun.vcpus
        } else {
            self.vcpus.unwrap_or(1)
        };
        Size {
            vcpus: asked.vcpus.max(least),
            memory_mib: asked.memory_mib.max(begun.memory_mib),
        }
    }

    /// The machine of this size.
    pub fn spec(&self, size: Size) -> MachineSpec {
        let (share, vsock) = device::specs();
        let host = Size {
            vcpus: host::processors(),
            memory_mib: host::memory_mib(),
        };
        let most = self.measure.most(size, host);
        MachineSpec {
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
            most_vcpus: most.vcpus,
            most_memory_mib: most.memory_mib,
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            kernel_params: self.kernel_params.clone(),
            shares: vec![share],
            vsock,
            nics: Vec::new(),
            binary: self.binary.clone(),
            patience: self.patience.hypervisor,
        }
    }

    /// Starts the process that serves the devices of a machine in `dir`, where it needs one; `share` is what the guest gets, `record`
    /// what that process knows of a guest that it has not seen begin, or an empty file where it writes that down.
    pub fn serve(&self, dir: &Path, share: &Path, record: Option<&File>) -> Result<Option<DeviceProcess>> {
        let own = self.backend.caps().own_devices;
        (!own)
            .then(|| DeviceProcess::start(&self.program, dir, share, record))
            .transpose()
    }

    /// The machine whose frozen guest serves those of `size`.
    pub fn template_spec(&self, size: Size) -> MachineSpec {
        let mut spec = self.spec(size);
        spec.kernel_params = format!("{} {}", spec.kernel_params, api::template::PARAMETER);
        spec
    }
}

/// Processors that we may run on.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1))
}

/// A machine that is up, and its device process. Dropping it ends both.
#[derive(Debug)]
pub struct Running {
    machine: Box<dyn Machine>,
    device: Option<DeviceProcess>,
    passt: Option<Passt>,
}

impl Running {
    /// Starts both and waits until the agent answers. A template that does not come to life costs a warning and a boot. Errors: why
    /// the machine did not come up, with the last lines of the guest's console; nothing is left then.
    pub async fn launch(
        plan: &Blueprint,
        size: Size,
        dir: &Path,
        share: &Path,
        resolver: Resolver,
        standby: Option<Standby>,
        spans: &mut Spans,
    ) -> Result<(Running, Guest, Option<Line>)> {
        let passt = plan.passt.lock().unwrap_or_else(PoisonError::into_inner).take();
        let up = Running::up(plan, size, passt.as_ref(), dir, share, standby, spans);
        let (mut running, guest, network) = match &passt {
            None => up.await?,
            Some(passt) => tokio::select! {
                up = up => up?,
                // It tells at once that it cannot have a port.
                () = end_of(passt.process()) => {
                    let why = passt.cause().unwrap_or_else(|| "passt ended".into());
                    return Err(Error::new(Kind::Gone, "connect the machine to the network").because(why));
                }
            },
        };
        if let Some(passt) = passt {
            let begin = Instant::now();
            let request = passt.request();
            running.passt = Some(passt);
            guest.configure_network(&request).await?;
            spans.end("interfaces", begin);
        }
        let line = match network {
            Some(network) => Some(Line::connect(network, resolver, guest.clone(), spans).await?),
            None => None,
        };
        Ok((running, guest, line))
    }

    /// One that waited, or a new one, with what is behind its network devices if that is not `passt`.
    async fn up(
        plan: &Blueprint,
        size: Size,
        passt: Option<&Passt>,
        dir: &Path,
        share: &Path,
        standby: Option<Standby>,
        spans: &mut Spans,
    ) -> Result<(Running, Guest, Option<Network>)> {
        let place = plan.network.as_ref().filter(|_| passt.is_none());
        if let Some(standby) = standby {
            match standby.wake(place, spans).await {
                Ok(up) => return Ok(up),
                Err(e) => {
                    log::warn!("the machine that waited is of no use, starting another: {}", e.chain());
                    device::clear(dir);
                }
            }
        }
        let begin = Instant::now();
        let network = place.map(Network::attach).transpose()?;
        spans.end("network", begin);
        let taps = network.as_ref().map(|network| network::specs(network.nics()));
        let nics = match passt {
            Some(passt) => vec![passt.nic()],
            None => taps.unwrap_or_default(),
        };
        let (running, guest) = Running::bring_up(plan, size, &nics, dir, share, spans).await?;
        Ok((running, guest, network))
    }

    pub(crate) async fn bring_up(
        plan: &Blueprint,
        size: Size,
        nics: &[NicSpec],
        dir: &Path,
        share: &Path,
        spans: &mut Spans,
    ) -> Result<(Running, Guest)> {
        let begin = Instant::now();
        if let Some(template) = &plan.template {
            let mut tried = spans.clone();
            // As long again is left for the boot.
            let deadline = plan.deadline / 2;
            let mut spec = plan.template_spec(size);
            spec.nics = nics.to_vec();
            match Running::thaw(plan, template, &spec, dir, share, deadline, &mut tried).await {
                Ok(up) => {
                    template.prove();
                    *spans = tried;
                    return Ok(up);
                }
                Err(e) => {
                    log::warn!(
                        "template {} is of no use, booting: {}",
                        template.dir().display(),
                        e.chain()
                    );
                    // On a host that is busy a good one may be late.
                    let busy = e.kind() == Kind::Timeout && template.is_proved();
                    // One that is not removed is replaced, or warned of again.
                    if !busy
                        && !matches!(e.kind(), Kind::Gone | Kind::Unsupported)
                        && let Err(e) = Store::of(template).remove(&template.manifest().key)
                    {
                        log::debug!("{}", e.chain());
                    }
                    device::clear(dir);
                    spans.end("template", begin);
                }
            }
        }
        let left = plan.deadline.saturating_sub(begin.elapsed());
        let mut spec = plan.spec(size);
        spec.nics = nics.to_vec();
        let mut tried = spans.clone();
        match Running::boot(plan, &spec, dir, share, left, &mut tried).await {
            // Software emulation fails once in some hundred boots: a kernel that does not find its bus, or panics.
            Err(e) if e.kind() == Kind::Guest && !plan.backend.caps().accelerated => {
                log::warn!("booting once more: {}", e.chain());
                device::clear(dir);
                spans.end("failed boot", begin);
                let left = plan.deadline.saturating_sub(begin.elapsed());
                Running::boot(plan, &spec, dir, share, left, spans).await
            }
            booted => {
                *spans = tried;
                booted
            }
        }
    }

    async fn boot(
        plan: &Blueprint,
        spec: &MachineSpec,
        dir: &Path,
        share: &Path,
        deadline: Duration,
        spans: &mut Spans,
    ) -> Result<(Running, Guest)> {
        let begin = Instant::now();
        let knock = base::socket::listen(&device::knock(dir))?;
        knock.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        let knock = UnixListener::from_std(knock).attempt(|| "watch a listener".into())?;
        let device = serve_devices(plan, dir, share, None, spans)?;
        let launched = Instant::now();
        let machine = tokio::time::timeout(deadline, plan.backend.launch(spec, dir)).await;
        let running = Running::of(machine.unwrap_or_else(|_| Err(late(plan))), device)?;
        spans.end("machine", launched);
        let up = async |machine: &dyn Machine, spans: &mut Spans| {
            let begin = Instant::now();
            let knocked = knock.accept().await;
            knocked.attempt(|| "wait for the guest".into())?;
            spans.end("kernel", begin);
            greet(machine, plan.patience.agent, false, spans).await
        };
        let left = deadline.saturating_sub(begin.elapsed());
        let outcome = tokio::select! {
            up = up(&*running.machine, spans) => up,
            () = ended(&running) => Err(Error::new(Kind::Guest, running.cause())),
            () = tokio::time::sleep(left) => Err(late(plan)),
        };
        running.settle(outcome, Kind::Guest).await
    }

    async fn thaw(
        plan: &Blueprint,
        template: &Template,
        spec: &MachineSpec,
        dir: &Path,
        share: &Path,
        deadline: Duration,
        spans: &mut Spans,
    ) -> Result<(Running, Guest)> {
        let begin = Instant::now();
        let record = template.served()?;
        let device = serve_devices(plan, dir, share, record.as_ref(), spans)?;
        let mut told = |step: &'static str, begin| spans.end(step, begin);
        let machine = plan.backend.thaw(spec, template, dir, &mut told);
        let machine = tokio::time::timeout(deadline, machine).await;
        let running = Running::of(machine.unwrap_or_else(|_| Err(late(plan))), device)?;
        let left = deadline.saturating_sub(begin.elapsed());
        let outcome = tokio::select! {
            up = greet(&*running.machine, plan.patience.agent, !spec.nics.is_empty(), spans) => up,
            () = ended(&running) => Err(Error::new(Kind::Gone, running.cause())),
            () = tokio::time::sleep(left) => Err(late(plan)),
        };
        running.settle(outcome, Kind::Gone).await
    }

    fn of(machine: Result<Box<dyn Machine>>, device: Option<DeviceProcess>) -> Result<Running> {
        match machine {
            Ok(machine) => Ok(Running {
                machine,
                device,
                passt: None,
            }),
            Err(e) => {
                // A hypervisor that misses its device process complains about sockets.
                let cause = device.as_ref().and_then(DeviceProcess::cause);
                Err(match cause {
                    Some(cause) => Error::new(Kind::Gone, "launch the machine").because(cause),
                    None => e,
                })
            }
        }
    }

    /// Adds the console's last lines to an error, and ends the machine then. `lost` is what an error is of whose reason is that one of the
    /// two has ended.
    async fn settle(mut self, outcome: Result<Guest>, lost: Kind) -> Result<(Running, Guest)> {
        match outcome {
            Ok(guest) => Ok((self, guest)),
            Err(e) => {
                // A connection that is refused, or breaks, is no reason; the end may be seen a moment later.
                let e = match tokio::time::timeout(LAG, ended(&self)).await {
                    Ok(()) => Error::new(lost, self.cause()),
                    Err(_) => e,
                };
                let console = self.machine.console();
                self.kill().await;
                let kind = e.kind();
                let what = "the guest did not come up";
                let last = match console.as_str() {
                    "" => "its console printed nothing".to_owned(),
                    console => format!("its console's last lines:\n{console}"),
                };
                Err(Error::new(kind, what).because(Error::new(kind, e.chain()).because(last)))
            }
        }
    }

    /// Waits until one of the two has ended; ends the other. Returns the reason.
    pub async fn ended(&mut self) -> String {
        ended(self).await;
        let cause = self.cause();
        let console = self.machine.console();
        let last: Vec<&str> = console.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        self.kill().await;
        if last.is_empty() {
            cause
        } else {
            format!("{cause}; the guest's console says: {}", last.join(" / "))
        }
    }

    /// Ends the machine and waits for that; the device process follows on drop.
    pub async fn kill(&mut self) {
        if let Err(e) = self.machine.kill().await {
            log::warn!("{}", e.chain());
        }
    }

    fn cause(&self) -> String {
        let device = self.device.as_ref().and_then(DeviceProcess::cause);
        let passt = || self.passt.as_ref().and_then(Passt::cause);
        let machine = || self.machine.cause();
        device
            .or_else(passt)
            .or_else(machine)
            .unwrap_or_else(|| "the machine has ended".into())
    }

    /// The machine.
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// The machine, to be stopped or to go on.
    pub fn machine_mut(&mut self) -> &mut dyn Machine {
        &mut *self.machine
    }

    /// Returns why, when one of the two has ended.
    pub async fn lost(&self) -> String {
        ended(self).await;
        self.cause()
    }

    /// For the disk: the machine, and the device process.
    pub fn save(&self) -> (SavedMachine, Option<SavedProcess>) {
        let device = self.device.as_ref().map(|device| SavedProcess {
            pid: device.process().pid(),
            start_time: device.start_time(),
        });
        (self.machine.save(), device)
    }
}

fn late(plan: &Blueprint) -> Error {
    let what = format!("the guest is not up after {} s", plan.deadline.as_secs());
    Error::new(Kind::Timeout, what)
}

fn serve_devices(
    plan: &Blueprint,
    dir: &Path,
    share: &Path,
    record: Option<&File>,
    spans: &mut Spans,
) -> Result<Option<DeviceProcess>> {
    let begin = Instant::now();
    let device = plan.serve(dir, share, record)?;
    spans.end("device", begin);
    Ok(device)
}

/// Reaches the agent and tells it what a fresh guest must know; `plugged` as in [`Guest::hello`].
async fn greet(machine: &dyn Machine, patience: Duration, plugged: bool, spans: &mut Spans) -> Result<Guest> {
    let begin = Instant::now();
    let stream = machine.dial(api::port::CONTROL).await?;
    let (guest, facts) = Guest::greet(stream, patience, plugged).await?;
    spans.end("agent", begin);
    log::info!(
        "guest: agent {}, kernel {}, {} vCPUs, {} MiB",
        facts.agent_version,
        facts.kernel_release,
        facts.vcpus,
        facts.memory_bytes >> 20
    );
    Ok(guest)
}

async fn ended(running: &Running) {
    let device = async {
        match &running.device {
            Some(device) => end_of(device.process()).await,
            None => std::future::pending().await,
        }
    };
    let passt = async {
        match &running.passt {
            Some(passt) => end_of(passt.process()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = end_of(running.machine.process()) => {
            // The one follows the other; which one failed shows when both have ended.
            if let Some(device) = &running.device {
                let _ = tokio::time::timeout(Duration::from_millis(20), end_of(device.process())).await;
            }
        }
        () = passt => {}
        () = device => {
            let machine = end_of(running.machine.process());
            let _ = tokio::time::timeout(Duration::from_millis(20), machine).await;
        }
    }
}

/// Returns when the process has ended; never, if that cannot be known.
pub async fn end_of(process: &Pidfd) {
    let watched = process.as_fd().try_clone_to_owned();
    let watched = watched.and_then(sys::watch);
    match watched {
        Ok(watched) => {
            let _ = watched.readable().await;
        }
        Err(e) => {
            log::error!("watch process {}: {e}", process.pid());
            std::future::pending::<()>().await;
        }
    }
}
