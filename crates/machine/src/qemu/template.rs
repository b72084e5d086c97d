// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A booted guest to disk and back: QEMU's migration, without the guest's memory, which is ours already.
//!
//! The devices that other processes serve cannot be migrated: a machine is frozen without them and with an empty PCI Express
//! port, and they are plugged there before its copy goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::command::{self, Accelerator, Beginning, BootFiles, Descriptors};
use super::qmp::Qmp;
use super::{Qemu, Running, Started, binary, executable};
use crate::layout::Layout;
use crate::template::{self, Recipe, Template};
use crate::{Machine, MachineSpec, Steps, process};

/// How often a migration is asked whether it has ended.
const ASK: Duration = Duration::from_millis(1);
/// How often the console is read for the word that the guest is ready.
const LOOK: Duration = Duration::from_millis(5);

impl Qemu {
    /// See `Backend::recipe`: the command line, with names in place of descriptors.
    pub(super) fn template_of(self, spec: &MachineSpec) -> Result<Recipe> {
        let binary = executable(spec)?;
        let files = BootFiles {
            kernel: "kernel".into(),
            initramfs: "initramfs".into(),
        };
        let descriptors = Descriptors {
            qmp: 0,
            console: 0,
            memory: 0,
            devices: Vec::new(),
        };
        // The clock's rate is the host's, which the recipe has already, and measured anew each time.
        let accelerator = match self {
            Qemu::Kvm => Accelerator::Kvm,
            Qemu::Tcg => Accelerator::Tcg { tsc_khz: 0 },
        };
        let line = command::line(spec, accelerator, Beginning::Freeze, &files, &descriptors, "template");
        let words = line.iter().map(|word| word.to_string_lossy().into_owned());
        let mut inputs: Vec<&Path> = vec![&binary, &spec.kernel, &spec.initramfs];
        let firmware = binary::firmware();
        inputs.extend(firmware.as_deref());
        Recipe::new(super::Backend::name(&self), words.collect(), &inputs)
    }
}

/// See `Backend::freeze`.
pub async fn freeze(backend: Qemu, spec: &MachineSpec, ready: &str, dir: &Path) -> Result<()> {
    let memory = Layout::of(spec).memory()?;
    let shared: File = memory.try_clone().attempt(|| "duplicate a descriptor".into())?;
    let mut running = Started::new(backend, spec, dir, Beginning::Freeze, shared, &[])?
        .obey()
        .await?;
    while !running.console().contains(ready) {
        if let Some(ending) = process::ending(running.process()) {
            let what = format!("the guest ended before it could be frozen: qemu {ending}");
            return Err(Error::new(Kind::Guest, what).because(running.console()));
        }
        tokio::time::sleep(LOOK).await;
    }
    running.qmp.execute("stop", json!({})).await?;
    let (mut ours, theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    running.qmp.give("state", theirs.as_fd()).await?;
    drop(theirs);
    let received = spawn_blocking(move || {
        let mut state = Vec::new();
        ours.read_to_end(&mut state).map(|_| state)
    });
    memory_stays(&mut running.qmp).await?;
    running.qmp.execute("migrate", json!({ "uri": "fd:state" })).await?;
    completed(&mut running.qmp).await?;
    let state = received.await.context(Kind::Bug, || "run a thread".into())?;
    let state = state.attempt(|| "read the state of the machine".into())?;
    running.kill().await?;
    let dir = dir.to_owned();
    let written = spawn_blocking(move || template::write(&dir, &state, &memory));
    written.await.context(Kind::Bug, || "run a thread".into())?
}

/// See `Backend::thaw`.
pub async fn thaw(
    backend: Qemu,
    spec: &MachineSpec,
    template: &Template,
    dir: &Path,
    told: Steps<'_>,
) -> Result<Running> {
    let begin = Instant::now();
    let state = template.state()?;
    let plugs = command::plugs(&command::devices(spec))?;
    let memory = Layout::of(spec).memory()?;
    let shared: File = memory.try_clone().attempt(|| "duplicate a descriptor".into())?;
    let (ours, theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    let started = Started::new(backend, spec, dir, Beginning::Thaw, shared, &[theirs.as_fd()])?;
    let stream = theirs.as_raw_fd();
    drop(theirs);
    let filled = {
        let template = template.clone();
        spawn_blocking(move || template.fill(&memory))
    };
    let mut running = started.obey().await?;
    told("hypervisor", begin);
    filled.await.context(Kind::Bug, || "run a thread".into())??;
    told("memory", begin);
    match revive(&mut running, ours, stream, state, plugs, told).await {
        Ok(()) => Ok(running),
        Err(e) => Err(judge(&running, e)),
    }
}

/// Loads the state through the socket pair of `ours`, whose other end QEMU has as `stream`; plugs the devices; lets go.
async fn revive(
    running: &mut Running,
    mut ours: UnixStream,
    stream: i32,
    state: Vec<u8>,
    plugs: Vec<Value>,
    told: Steps<'_>,
) -> Result<()> {
    let begin = Instant::now();
    // Ends when QEMU has read it, or is gone.
    let sent = spawn_blocking(move || ours.write_all(&state));
    memory_stays(&mut running.qmp).await?;
    let uri = format!("fd:{stream}");
    running.qmp.execute("migrate-incoming", json!({ "uri": uri })).await?;
    completed(&mut running.qmp).await?;
    let sent = sent.await.context(Kind::Bug, || "run a thread".into())?;
    sent.context(Kind::Gone, || "send the state of the machine".into())?;
    told("restore", begin);

    let begin = Instant::now();
    for plug in plugs {
        running.qmp.execute("device_add", plug).await?;
    }
    // Only now: a command to go on that comes before the end of the migration is lost in QEMU 7.2.
    running.set_running(true).await?;
    told("plug", begin);
    Ok(())
}

/// A hypervisor that ends on what it is given says so; one that is killed says nothing about the template.
fn judge(running: &Running, error: Error) -> Error {
    let ended = running.process().wait(Some(super::LAST_WORDS));
    match running.cause().filter(|_| error.kind() == Kind::Gone && ended.is_ok()) {
        Some(cause) if !cause.contains("killed by SIGKILL") => {
            Error::new(Kind::Invalid, "the hypervisor refuses the template").because(cause)
        }
        _ => error,
    }
}

/// Memory that is shared is no part of what migrates.
async fn memory_stays(qmp: &mut Qmp) -> Result<()> {
    let capability = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
    qmp.execute("migrate-set-capabilities", capability).await.map(drop)
}

/// Waits for the end of a migration. Errors: `State` when it failed.
async fn completed(qmp: &mut Qmp) -> Result<()> {
    loop {
        let answer = qmp.execute("query-migrate", json!({})).await?;
        let status = answer
            .get("status")
            .and_then(|status| status.as_str())
            .unwrap_or_default();
        match status {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                return Err(Error::new(Kind::State, format!("the migration is {status}")));
            }
            _ => tokio::time::sleep(ASK).await,
        }
    }
}
