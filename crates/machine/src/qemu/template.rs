// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A booted guest to disk and back: QEMU's migration, without the guest's memory, which is ours already.
//!
//! The devices that other processes serve cannot be migrated: when a machine is frozen they are taken out of their port, and
//! others like them are plugged there and set up in the same way before its copy goes on ([`functions`]). Network devices are plugged
//! into a port of their own, where the guest finds them when it looks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::command::{self, Accelerator, Beginning, BootFiles, Descriptors};
use super::qmp::Qmp;
use super::registers::{Access, Registers};
use super::{Qemu, Running, Started, binary, executable, functions};
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
            registers: 0,
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

/// A machine's state as it is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Frozen {
    /// What sets up the devices that could not migrate.
    served: Vec<Access>,
    /// All else, in QEMU's words.
    #[serde(skip)]
    migrated: Vec<u8>,
}

impl Frozen {
    /// A line of JSON, then QEMU's words.
    fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).context(Kind::Bug, || "write a machine's state".into())?;
        bytes.push(b'\n');
        bytes.extend(&self.migrated);
        Ok(bytes)
    }

    /// The inverse of [`Frozen::bytes`]. Errors: `Invalid`.
    fn parse(bytes: &[u8]) -> Result<Frozen> {
        let what = || "read the state of a template".to_owned();
        let mut halves = bytes.splitn(2, |byte| *byte == b'\n');
        let (Some(served), Some(migrated)) = (halves.next(), halves.next()) else {
            return Err(Error::new(Kind::Invalid, what()).because("it has one line only"));
        };
        let frozen: Frozen = serde_json::from_slice(served).context(Kind::Invalid, what)?;
        Ok(Frozen {
            migrated: migrated.to_vec(),
            ..frozen
        })
    }
}

/// A connection to the registers of a machine: ours, and QEMU's end.
fn registers(spec: &MachineSpec) -> Result<(Registers, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    let watched = ours
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixStream::from_std(ours));
    let ours = watched.attempt(|| "watch a socket".into())?;
    Ok((Registers::new(ours, spec.patience), theirs))
}

/// See `Backend::freeze`.
pub async fn freeze(backend: Qemu, spec: &MachineSpec, ready: &str, run: &Path, dir: &Path) -> Result<()> {
    let memory = Layout::of(spec).memory()?;
    let shared: File = memory.try_clone().attempt(|| "duplicate a descriptor".into())?;
    let (mut registers, theirs) = registers(spec)?;
    let mut running = Started::new(backend, spec, run, Beginning::Freeze, shared, Some(&theirs), &[])?
        .obey()
        .await?;
    drop(theirs);
    while !running.console().contains(ready) {
        if let Some(ending) = process::ending(running.process()) {
            let what = format!("the guest ended before it could be frozen: qemu {ending}");
            return Err(Error::new(Kind::Guest, what).because(running.console()));
        }
        tokio::time::sleep(LOOK).await;
    }
    running.qmp.execute("stop", json!({})).await?;
    let count = 1 + spec.shares.len();
    let served = functions::take(&mut registers, command::SERVED_SLOT, count).await?;
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
    let migrated = state.attempt(|| "read the state of the machine".into())?;
    running.kill().await?;
    let state = Frozen { served, migrated }.bytes()?;
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
    let frozen = Frozen::parse(&template.state()?)?;
    let devices = command::devices(spec);
    let (served, free): (Vec<_>, Vec<_>) = devices.iter().partition(|device| device.is_served());
    let plugs = [command::plugs(&served)?, command::plugs(&free)?].concat();
    let (registers, registers_theirs) = registers(spec)?;
    let memory = Layout::of(spec).memory()?;
    let shared: File = memory.try_clone().attempt(|| "duplicate a descriptor".into())?;
    let (ours, theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    let inherited = [theirs.as_fd()];
    let started = Started::new(
        backend,
        spec,
        dir,
        Beginning::Thaw,
        shared,
        Some(&registers_theirs),
        &inherited,
    )?;
    let stream = theirs.as_raw_fd();
    drop((theirs, registers_theirs));
    let filled = {
        let template = template.clone();
        spawn_blocking(move || template.fill(&memory))
    };
    let mut running = started.obey().await?;
    told("hypervisor", begin);
    filled.await.context(Kind::Bug, || "run a thread".into())??;
    told("memory", begin);
    let incoming = Incoming {
        ours,
        stream,
        frozen,
        plugs,
        registers,
    };
    match revive(&mut running, incoming, told).await {
        Ok(()) => Ok(running),
        Err(e) => Err(judge(&running, e)),
    }
}

/// What a copy is made of.
#[derive(Debug)]
struct Incoming {
    /// Our end of a socket pair, whose other end QEMU has as `stream`.
    ours: UnixStream,
    stream: i32,
    frozen: Frozen,
    plugs: Vec<Value>,
    registers: Registers,
}

/// Loads the state; plugs the devices and sets them up; lets go.
async fn revive(running: &mut Running, incoming: Incoming, told: Steps<'_>) -> Result<()> {
    let Incoming {
        mut ours,
        stream,
        frozen,
        plugs,
        mut registers,
    } = incoming;
    let begin = Instant::now();
    // Ends when QEMU has read it, or is gone.
    let sent = spawn_blocking(move || ours.write_all(&frozen.migrated));
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
    registers.play(&frozen.served).await?;
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

#[cfg(test)]
mod tests {
    use super::super::registers::Width;
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let frozen = Frozen {
            served: vec![
                Access::Write(Width::Byte, 0xc0_0040_0014, 1),
                Access::Expect(Width::Long, 0xe030_0000, u32::MAX),
            ],
            migrated: b"QEVM\n\0\n".to_vec(),
        };
        let bytes = frozen.bytes().unwrap();
        assert_eq!(Frozen::parse(&bytes).unwrap(), frozen);
        for bad in [
            &b""[..],
            b"QEVM",
            b"{}\nQEVM",
            b"{\"served\":[{\"Write\":[\"Byte\",1]}]}\nQEVM",
        ] {
            assert_eq!(Frozen::parse(bad).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
