// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a hypervisor is to us: a [`Backend`] launches a [`Machine`] from a [`MachineSpec`].
//!
//! A new hypervisor is one file with two impls and one line in the registry. No backend's name is spelled outside its file;
//! an ability that is missing is an answer ([`Caps`], `Kind::Unsupported`), not a panic. Nothing here knows containers.

#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host;
pub mod hybrid;
pub mod kvm;
pub mod layout;
pub mod process;
pub mod qemu;
pub mod registry;
mod sys;
pub mod tail;
pub mod template;
pub mod tsc;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use registry::{choose, clean};

use async_trait::async_trait;
use base::pidfd::Pidfd;
use base::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use template::{Recipe, Template};
use tokio::net::UnixStream;

/// A machine to be launched. Paths are the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// To how many virtual CPUs the guest may grow: they are there, and it does not use them before it is told to.
    pub most_vcpus: u32,
    /// To how much memory the guest may grow, MiB: it is there likewise.
    pub most_memory_mib: u64,
    /// Uncompressed ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// Uncompressed cpio archive.
    pub initramfs: PathBuf,
    /// Added to the parameters that the backend itself needs.
    pub kernel_params: String,
    /// virtio-fs devices, served by another process where [`Caps::own_devices`] is false.
    pub shares: Vec<ShareSpec>,
    /// The vsock device, served likewise.
    pub vsock: VsockSpec,
    /// Network devices; they are of this process and do not last on disk.
    #[serde(skip)]
    pub nics: Vec<NicSpec>,
    /// The hypervisor's executable, where it is not the one that the backend finds.
    pub binary: Option<PathBuf>,
    /// How long the hypervisor may take to answer.
    pub patience: Duration,
}

/// One network device.
#[derive(Debug, Clone)]
pub struct NicSpec {
    /// Its hardware address, by which the guest finds it.
    pub mac: [u8; 6],
    /// What it is tied to.
    pub end: NicEnd,
}

/// The other end of a network device.
#[derive(Debug, Clone)]
pub enum NicEnd {
    /// A tap interface whose packets carry offload headers.
    Tap(Arc<OwnedFd>),
    /// A stream socket: each packet with its length before it.
    Stream(Arc<OwnedFd>),
}

impl NicEnd {
    /// Its descriptor.
    pub fn descriptor(&self) -> &OwnedFd {
        match self {
            NicEnd::Tap(descriptor) | NicEnd::Stream(descriptor) => descriptor,
        }
    }
}

/// How many containers of a machine can have block devices at once.
pub const DISK_CARDS: usize = 2;

/// A block device that is plugged into a running machine.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Its serial number, by which the guest finds it: at most 20 letters and digits, and `-`.
    pub serial: String,
    /// The host's device, or a file in place of one, open for what it is to be used for. Several files are one device that is only read:
    /// each begins where the one before it ends, rounded up to [`DiskSpec::ALIGNMENT`].
    pub parts: Vec<Arc<OwnedFd>>,
    /// The guest cannot write.
    pub read_only: bool,
}

impl DiskSpec {
    /// Of parts, in bytes: pages of the guest, and blocks of its file systems.
    pub const ALIGNMENT: u64 = 4096;
}

/// One virtio-fs device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareSpec {
    /// The name by which the guest mounts it.
    pub tag: String,
    /// vhost-user socket of its server, relative to the sandbox's directory.
    pub socket: PathBuf,
}

/// The vsock device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VsockSpec {
    /// Guest's context id, at least 3; only this machine's own server reads it.
    pub cid: u32,
    /// vhost-user socket of its server, relative to the sandbox's directory.
    pub socket: PathBuf,
    /// Socket at which the host asks for guest ports (`CONNECT <port>\n`), relative likewise; a guest that dials host port N
    /// reaches the listener `<hybrid>_N`.
    pub hybrid: PathBuf,
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Caps {
    /// Serves virtio-fs and vsock itself: no device process is needed.
    pub own_devices: bool,
    /// Can pause and go on.
    pub pause: bool,
    /// Uses the processor's virtualization.
    pub accelerated: bool,
    /// Makes templates and begins machines as copies of them.
    pub templates: bool,
}

/// What is written to disk so that a later process can adopt or clean up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedMachine {
    /// [`Backend::name`].
    pub backend: String,
    /// Host pid of the hypervisor.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: tells a reused pid apart.
    pub start_time: u64,
}

/// A hypervisor that is usable on this host.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Short, lower case, as in `--hypervisor`.
    fn name(&self) -> &'static str;
    /// What it can do here.
    fn caps(&self) -> Caps;
    /// Whether it can run on this host. Errors: `Unsupported`, with the reason for people.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Starts the hypervisor's process with `dir` (the sandbox's) as working directory and boots the guest. Returns when the
    /// process runs and obeys, not when the guest is up. The process dies with the thread that launched it.
    async fn launch(&self, spec: &MachineSpec, dir: &Path) -> Result<Box<dyn Machine>>;
    /// All that a template of `spec` depends on; its network devices are no part of it.
    fn recipe(&self, _spec: &MachineSpec) -> Result<Recipe> {
        Err(without_templates(self.name()))
    }
    /// Boots `spec`, in the directory `run` where its devices are served, until its console has printed `ready`, and writes the frozen
    /// guest into `dir`. It has no network devices.
    async fn freeze(&self, _spec: &MachineSpec, _ready: &str, _run: &Path, _dir: &Path) -> Result<()> {
        Err(without_templates(self.name()))
    }
    /// As [`Backend::launch`], with a copy of a guest that was frozen of the same `spec`: it runs already, with the devices that it
    /// knows, and finds network devices when it looks for them. Steps are told as they end, with their beginning.
    async fn thaw(
        &self,
        _spec: &MachineSpec,
        _template: &Template,
        _dir: &Path,
        _told: Steps<'_>,
    ) -> Result<Box<dyn Machine>> {
        Err(without_templates(self.name()))
    }
}

/// Who is told how long the steps of a start took.
pub type Steps<'a> = &'a mut (dyn FnMut(&'static str, Instant) + Send);

fn without_templates(name: &str) -> Error {
    Error::new(Kind::Unsupported, format!("hypervisor {name} has no templates"))
}

/// A running machine. Dropping it kills the process and waits for its end.
#[async_trait]
pub trait Machine: Send + Sync + std::fmt::Debug {
    /// The hypervisor's process; readable when it has ended.
    fn process(&self) -> &Pidfd;
    /// Opens a stream to a port of the guest. Waits until somebody listens there or the guest refuses.
    async fn dial(&self, port: u32) -> Result<UnixStream>;
    /// Pauses or resumes all virtual CPUs.
    async fn set_running(&mut self, running: bool) -> Result<()>;
    /// Which guest addresses the guest may take for memory when it is told to grow, in that order.
    fn later(&self) -> Vec<Range<u64>> {
        Vec::new()
    }
    /// Gives the host back what is at these guest addresses, which the guest has stopped to use. Errors: `Invalid` for others than
    /// those of [`Machine::later`].
    fn discard(&self, addresses: &Range<u64>) -> Result<()> {
        let what = format!("discard guest memory at {:#x}", addresses.start);
        Err(Error::new(Kind::Unsupported, what))
    }
    /// Plugs block devices, all at once. The guest finds them when it looks. Errors: none is plugged then.
    async fn plug(&mut self, disks: &[DiskSpec]) -> Result<()> {
        let what = format!("plug {} block devices into a running machine", disks.len());
        Err(Error::new(Kind::Unsupported, what))
    }
    /// Takes back the block devices that were plugged at once with these; the guest has let them go. Errors: it has not.
    async fn unplug(&mut self, serials: &[String]) -> Result<()> {
        let what = format!("unplug block devices {}", serials.join(", "));
        Err(Error::new(Kind::Unsupported, what))
    }
    /// Kills the process and waits for its end.
    async fn kill(&mut self) -> Result<()>;
    /// The last lines that the guest's console printed (bounded, control characters removed), for error messages.
    fn console(&self) -> String;
    /// Why the process ended, from its exit status and the last lines of its stderr, once it has.
    fn cause(&self) -> Option<String>;
    /// For the disk.
    fn save(&self) -> SavedMachine;
}
