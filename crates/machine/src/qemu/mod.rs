// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! QEMU as a backend, with KVM or with its own translator. virtio-fs and vsock are served by another process over vhost-user.
//!
//! QEMU runs as nobody in particular (`process::Identity`), under its own seccomp filter, and inherits every file and socket
//! that it needs: the sandbox's directory is only its working directory.

pub mod binary;
pub mod boot;
pub mod command;
mod concat;
mod disk;
mod functions;
pub mod qmp;
mod registers;
mod template;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use serde_json::json;
use tokio::net::UnixStream;

use crate::layout::Layout;
use crate::process::{self, Identity, Owned};
use crate::tail::Tail;
use crate::template::{Recipe, Template};
use crate::{Backend, Caps, DiskSpec, Machine, MachineSpec, SavedMachine, Steps, hybrid, kvm, tsc};
use boot::Boot;
use command::{Accelerator, Beginning, BootFiles, Descriptors};
use disk::Cards;
use qmp::Qmp;

/// How long a QEMU that closed its control channel may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// QEMU with one of its two ways to run a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qemu {
    /// On the processor's virtualization.
    Kvm,
    /// In software: everywhere, several times slower.
    Tcg,
}

#[async_trait]
impl Backend for Qemu {
    fn name(&self) -> &'static str {
        match self {
            Qemu::Kvm => "qemu-kvm",
            Qemu::Tcg => "qemu-tcg",
        }
    }

    fn caps(&self) -> Caps {
        Caps {
            own_devices: false,
            pause: true,
            accelerated: *self == Qemu::Kvm,
            templates: true,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Qemu::Tcg => Ok(()),
            Qemu::Kvm => {
                let kvm = kvm::probe();
                let unusable = || Error::new(Kind::Unsupported, kvm.reason.clone());
                if kvm.usable { Ok(()) } else { Err(unusable()) }
            }
        }
    }

    async fn launch(&self, spec: &MachineSpec, dir: &Path) -> Result<Box<dyn Machine>> {
        let memory = Layout::of(spec).memory()?;
        let started = Started::new(*self, spec, dir, Beginning::Boot, memory, None, &[])?;
        started
            .obey()
            .await
            .map(|running| Box::new(running) as Box<dyn Machine>)
    }

    fn recipe(&self, spec: &MachineSpec) -> Result<Recipe> {
        self.template_of(spec)
    }

    async fn freeze(&self, spec: &MachineSpec, ready: &str, run: &Path, dir: &Path) -> Result<()> {
        template::freeze(*self, spec, ready, run, dir).await
    }

    async fn thaw(
        &self,
        spec: &MachineSpec,
        template: &Template,
        dir: &Path,
        told: Steps<'_>,
    ) -> Result<Box<dyn Machine>> {
        let running = template::thaw(*self, spec, template, dir, told).await?;
        Ok(Box::new(running))
    }
}

impl Qemu {
    fn accelerator(self) -> Result<Accelerator> {
        let unknown = || {
            Error::new(
                Kind::Unsupported,
                "emulate an x86 machine: this host has no time stamp counter",
            )
        };
        match self {
            Qemu::Kvm => Ok(Accelerator::Kvm),
            Qemu::Tcg => Ok(Accelerator::Tcg {
                tsc_khz: tsc::khz().ok_or_else(unknown)?,
            }),
        }
    }

    /// Who QEMU runs as: nobody, where that still opens `/dev/kvm`.
    fn identity(self) -> Option<Identity> {
        match (self, kvm::access()) {
            (Qemu::Kvm, kvm::Access::Root) => {
                log::warn!("only root may open {}: qemu runs as root", kvm::DEVICE);
                None
            }
            (Qemu::Kvm, kvm::Access::Group(group)) => Identity::own(&[group]),
            (Qemu::Kvm, kvm::Access::All) | (Qemu::Tcg, _) => Identity::own(&[]),
        }
    }
}

/// A QEMU process whose control channel has not spoken yet. Dropping it ends the process.
#[derive(Debug)]
struct Started {
    binary: PathBuf,
    process: Owned,
    backend: Qemu,
    start_time: u64,
    qmp: UnixStream,
    console: Tail,
    stderr: Tail,
    hybrid: PathBuf,
    layout: Layout,
    memory: File,
    patience: Duration,
}

/// A machine that obeys.
#[derive(Debug)]
struct Running {
    process: Owned,
    backend: Qemu,
    start_time: u64,
    qmp: Qmp,
    console: Tail,
    stderr: Tail,
    hybrid: PathBuf,
    layout: Layout,
    memory: File,
    cards: Cards,
}

fn executable(spec: &MachineSpec) -> Result<PathBuf> {
    spec.binary.clone().map_or_else(binary::find, Ok)
}

impl Started {
    /// `memory` is the guest's, empty or being filled; `registers` QEMU's end of a connection to them, `inherited` descriptors for later
    /// commands.
    fn new(
        backend: Qemu,
        spec: &MachineSpec,
        dir: &Path,
        beginning: Beginning,
        memory: File,
        registers: Option<&StdUnixStream>,
        inherited: &[BorrowedFd<'_>],
    ) -> Result<Started> {
        let binary = executable(spec)?;
        if spec.vcpus == 0 || spec.memory_mib == 0 {
            let what = format!("launch a machine with {} vCPUs and {} MiB", spec.vcpus, spec.memory_mib);
            return Err(Error::new(Kind::Invalid, what));
        }
        let boot = Boot::open(spec)?;
        let device = |socket: &Path| {
            let path = dir.join(socket);
            base::socket::connect(&path).map(OwnedFd::from)
        };
        let servers = spec.shares.iter().map(|share| &share.socket);
        let nics = spec.nics.iter().map(|nic| {
            let end = nic.end.descriptor().try_clone();
            end.attempt(|| "duplicate the end of a network device".into())
        });
        let devices: Vec<OwnedFd> = [&spec.vsock.socket]
            .into_iter()
            .chain(servers)
            .map(|socket| device(socket))
            .chain(nics)
            .collect::<Result<_>>()?;
        let channel = || StdUnixStream::pair().attempt(|| "create a socket pair".into());
        let (qmp, qmp_theirs) = channel()?;
        let (console, console_theirs) = channel()?;
        let (stderr, stderr_theirs) = channel()?;
        let stdout_theirs = stderr_theirs.try_clone().attempt(|| "duplicate a socket".into())?;

        let descriptors = Descriptors {
            qmp: qmp_theirs.as_raw_fd(),
            console: console_theirs.as_raw_fd(),
            memory: memory.as_raw_fd(),
            registers: registers.map_or(-1, AsRawFd::as_raw_fd),
            devices: devices.iter().map(AsRawFd::as_raw_fd).collect(),
        };
        let files = BootFiles {
            kernel: boot.kernel(),
            initramfs: boot.initramfs(),
        };
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new(&binary);
        command
            .args(command::line(
                spec,
                backend.accelerator()?,
                beginning,
                &files,
                &descriptors,
                &name,
            ))
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(stdout_theirs))
            .stderr(OwnedFd::from(stderr_theirs));
        log::debug!("start {command:?}");
        let mut keep = vec![qmp_theirs.as_fd(), console_theirs.as_fd(), memory.as_fd()];
        keep.extend(boot.descriptors());
        keep.extend(devices.iter().map(AsFd::as_fd));
        keep.extend(registers.map(AsFd::as_fd));
        keep.extend(inherited);
        let process = Owned::of(process::spawn(&mut command, &keep, backend.identity())?)?;

        let start_time = process::start_time(process.pidfd().pid())?;
        qmp.set_nonblocking(true)
            .attempt(|| "unblock the control channel".into())?;
        Ok(Started {
            binary,
            process,
            backend,
            start_time,
            qmp: UnixStream::from_std(qmp).attempt(|| "watch the control channel".into())?,
            console: Tail::of(console)?,
            stderr: Tail::of(stderr)?,
            hybrid: dir.join(&spec.vsock.hybrid),
            layout: Layout::of(spec),
            memory,
            patience: spec.patience,
        })
    }

    /// Waits until QEMU takes commands. Errors carry its last words.
    async fn obey(self) -> Result<Running> {
        let binary = self.binary;
        match Qmp::greet(self.qmp, self.patience).await {
            Ok(qmp) => Ok(Running {
                process: self.process,
                backend: self.backend,
                start_time: self.start_time,
                qmp,
                console: self.console,
                stderr: self.stderr,
                hybrid: self.hybrid,
                layout: self.layout,
                memory: self.memory,
                cards: Cards::default(),
            }),
            Err(e) => {
                let what = || format!("start {}", binary.display());
                // It closes the channel on its way out.
                if e.kind() == Kind::Gone && self.process.pidfd().wait(Some(LAST_WORDS))? {
                    let why = last_words(self.process.pidfd(), &self.stderr).unwrap_or_default();
                    return Err(Error::new(Kind::Gone, what()).because(why));
                }
                Err(e).attempt(what)
            }
        }
    }
}

/// How the process ended and what it said last; `None` while it runs.
fn last_words(process: &Pidfd, stderr: &Tail) -> Option<String> {
    let ending = process::ending(process)?;
    let said = stderr.text();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Some(match (ending.as_str(), last.is_empty()) {
        (_, false) => format!("qemu {ending}: {}", last.join("; ")),
        ("exited with status 0", true) => "the guest powered off or rebooted".into(),
        _ => format!("qemu {ending}"),
    })
}

#[async_trait]
impl Machine for Running {
    fn process(&self) -> &Pidfd {
        self.process.pidfd()
    }

    async fn dial(&self, port: u32) -> Result<UnixStream> {
        hybrid::dial(&self.hybrid, port).await
    }

    async fn set_running(&mut self, running: bool) -> Result<()> {
        let command = if running { "cont" } else { "stop" };
        self.qmp.execute(command, json!({})).await.map(drop)
    }

    fn later(&self) -> Vec<Range<u64>> {
        self.layout.later()
    }

    fn discard(&self, addresses: &Range<u64>) -> Result<()> {
        self.layout.discard(&self.memory, addresses)
    }

    async fn plug(&mut self, disks: &[DiskSpec]) -> Result<()> {
        self.cards.plug(&mut self.qmp, disks).await
    }

    async fn unplug(&mut self, serials: &[String]) -> Result<()> {
        self.cards.unplug(&mut self.qmp, serials).await
    }

    async fn kill(&mut self) -> Result<()> {
        self.process.pidfd().kill()
    }

    fn console(&self) -> String {
        self.console.text()
    }

    fn cause(&self) -> Option<String> {
        last_words(self.process.pidfd(), &self.stderr)
    }

    fn save(&self) -> SavedMachine {
        SavedMachine {
            backend: self.backend.name().into(),
            pid: self.process.pidfd().pid(),
            start_time: self.start_time,
        }
    }
}

#[cfg(test)]
mod tests;
