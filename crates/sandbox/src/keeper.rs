// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Brings a machine up with its device process, and keeps both until one of them ends: then neither is left.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use machine::{Backend, Machine, MachineSpec, SavedMachine};
use tokio::net::UnixListener;

use crate::device::{self, DeviceProcess};
use crate::guest::Guest;
use crate::network::{self, Line};
use crate::saved::SavedProcess;
use crate::size::Size;
use crate::span::Spans;
use crate::sys;

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
    /// In place of what the container's limits ask for.
    pub vcpus: Option<u32>,
    /// In place of what the container's limits ask for, MiB.
    pub memory_mib: Option<u64>,
    /// The network namespace in which we live; none: the machine has no network.
    pub network: Option<net::Claim>,
    /// How long the guest may take to come up.
    pub deadline: Duration,
    /// The program whose role `device` serves the devices: our own.
    pub program: PathBuf,
}

/// A machine that is up, and its device process. Dropping it ends both.
#[derive(Debug)]
pub struct Running {
    machine: Box<dyn Machine>,
    device: Option<DeviceProcess>,
}

impl Running {
    /// Starts both and waits until the agent answers. Errors: why it did not come up, with the last lines of the guest's console;
    /// nothing is left then.
    pub async fn launch(
        plan: &Blueprint,
        size: Size,
        dir: &Path,
        share: &Path,
        spans: &mut Spans,
    ) -> Result<(Running, Guest, Option<Line>)> {
        let begin = Instant::now();
        let late = || {
            let what = format!("the guest is not up after {} s", plan.deadline.as_secs());
            Error::new(Kind::Timeout, what)
        };
        let knock = base::socket::listen(&device::knock(dir))?;
        knock.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        let knock = UnixListener::from_std(knock).attempt(|| "watch a listener".into())?;
        let device = if plan.backend.caps().own_devices {
            None
        } else {
            Some(DeviceProcess::start(&plan.program, dir, share)?)
        };
        spans.end("device", begin);

        let attached = Instant::now();
        let network = plan.network.as_ref().map(net::Network::attach).transpose()?;
        spans.end("network", attached);

        let launched = Instant::now();
        let (share, vsock) = device::specs();
        let spec = MachineSpec {
            vcpus: plan.vcpus.unwrap_or(size.vcpus),
            memory_mib: plan.memory_mib.unwrap_or(size.memory_mib),
            kernel: plan.kernel.clone(),
            initramfs: plan.initramfs.clone(),
            kernel_params: plan.kernel_params.clone(),
            shares: vec![share],
            vsock,
            nics: network.as_ref().map(network::nics).unwrap_or_default(),
            binary: plan.binary.clone(),
        };
        let machine = tokio::time::timeout(plan.deadline, plan.backend.launch(&spec, dir)).await;
        let machine = match machine {
            Ok(Ok(machine)) => machine,
            Ok(Err(e)) => {
                // A hypervisor that misses its device process complains about sockets.
                let cause = device.as_ref().and_then(DeviceProcess::cause);
                return Err(match cause {
                    Some(cause) => Error::new(Kind::Gone, "launch the machine").because(cause),
                    None => e,
                });
            }
            Err(_) => return Err(late()),
        };
        spans.end("machine", launched);
        let mut running = Running { machine, device };
        let left = plan.deadline.saturating_sub(begin.elapsed());
        let outcome = tokio::select! {
            up = up(&*running.machine, &knock, spans) => up,
            () = ended(&running) => Err(Error::new(Kind::Guest, running.cause())),
            () = tokio::time::sleep(left) => Err(late()),
        };
        match outcome {
            Ok(guest) => {
                let line = match network {
                    Some(network) => Some(Line::connect(network, guest.clone(), spans).await?),
                    None => None,
                };
                Ok((running, guest, line))
            }
            Err(e) => {
                let console = running.machine.console();
                running.kill().await;
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
        let machine = || self.machine.cause();
        device
            .or_else(machine)
            .unwrap_or_else(|| "the machine has ended".into())
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

/// The guest knocks, then answers.
async fn up(machine: &dyn Machine, knock: &UnixListener, spans: &mut Spans) -> Result<Guest> {
    let begin = Instant::now();
    let knocked = knock.accept().await;
    knocked.attempt(|| "wait for the guest".into())?;
    spans.end("kernel", begin);
    let begin = Instant::now();
    let stream = machine.dial(api::port::CONTROL).await?;
    let (guest, facts) = Guest::greet(stream).await?;
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
    tokio::select! {
        () = end_of(running.machine.process()) => {
            // The one follows the other; which one failed shows when both have ended.
            if let Some(device) = &running.device {
                let _ = tokio::time::timeout(Duration::from_millis(20), end_of(device.process())).await;
            }
        }
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
