// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A machine that is up before anybody asks for it: its guest has greeted, has gone through a whole container's life once, and
//! sleeps. It becomes the machine of one sandbox, and of no other. What there is of it belongs to no user yet.

use std::path::Path;
use std::time::{Duration, Instant};

use api::agent::{ConfigureNetworkRequest, CreateContainerRequest, Stdio};
use api::stream::{Hello, answer};
use base::{Context, Error, Kind, Result};
use net::{Network, Place, Spare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Origin;
use crate::guest::Guest;
use crate::keeper::{Blueprint, Running};
use crate::network;
use crate::passt::Wire;
use crate::rehearsal;
use crate::share::Share;
use crate::size::Size;
use crate::span::Spans;

/// How long the guest may take to answer when it wakes up; then another machine is started.
const WAKING: Duration = Duration::from_secs(10);
/// How long the rehearsal may take.
const REHEARSING: Duration = Duration::from_secs(60);

/// See the module. Dropping it ends it.
#[derive(Debug)]
pub struct Standby {
    running: Running,
    guest: Guest,
    spare: Spare,
    /// To a user-mode network, if that is what is wanted.
    wire: Option<Wire>,
    asleep: bool,
}

impl Standby {
    /// When it may be put to sleep: by then the guest has told which memory it does not use any more.
    pub const SETTLING: Duration = Duration::from_secs(5);

    /// Makes one as `plan` says, of `size`, in the sandbox's directory `dir` and the network namespace of this thread. Errors: why it
    /// did not come up; nothing is left then.
    pub async fn prepare(plan: &Blueprint, size: Size, dir: &Path, share: &Share) -> Result<Standby> {
        let spare = Spare::make()?;
        let wire = Wire::make()?;
        let mut nics = network::specs(spare.nics());
        nics.push(wire.nic());
        let mut spans = Spans::since(Instant::now());
        let (running, guest) = Running::bring_up(plan, size, &nics, dir, share.path(), &mut spans).await?;
        let standby = Standby {
            running,
            guest,
            spare,
            wire: Some(wire),
            asleep: false,
        };
        let what = || Error::new(Kind::Timeout, "rehearse a container: it does not end");
        tokio::select! {
            done = tokio::time::timeout(REHEARSING, standby.rehearse(dir, share)) => done.unwrap_or_else(|_| Err(what()))?,
            reason = standby.ended() => return Err(Error::new(Kind::Guest, "rehearse a container").because(reason)),
        }
        Ok(standby)
    }

    /// The life of a container, as the runtime and the shim would have it.
    async fn rehearse(&self, dir: &Path, share: &Share) -> Result<()> {
        // The guest remembers names: no container has this one.
        let id = format!("rehearsal-{}", dir.file_name().unwrap_or_default().to_string_lossy());
        let id = id.as_str();
        let bundle_dir = dir.join(id);
        let bundle = rehearsal::write(&bundle_dir)?;
        let stdio = Stdio {
            stdin: true,
            stdout: true,
            stderr: true,
            ..Stdio::default()
        };
        // An interface, and none again: no container sees those that are not used.
        for nic in self.spare.nics().into_iter().take(1) {
            self.guest.configure_network(&rehearsal::network(nic.mac)).await?;
        }
        self.guest
            .configure_network(&ConfigureNetworkRequest::default())
            .await?;
        let here = Origin::default();
        let (mut placed, mut attachments) = share.place(id, &bundle, None, &here)?;
        attachments.push(placed.root(&bundle, &[], &here)?);
        let request = CreateContainerRequest {
            id: id.to_owned(),
            spec: bundle.json().to_owned(),
            attachments,
            stdio: Some(stdio).into(),
            ..CreateContainerRequest::default()
        };
        self.guest.create(&request).await?;
        let mut input = self.stream(id, 0).await?;
        let (mut output, mut errors) = (self.stream(id, 1).await?, self.stream(id, 2).await?);
        self.guest.start(id).await?;
        input.shutdown().await.attempt(|| "end the input".into())?;
        let (mut said, mut complaints) = (Vec::new(), Vec::new());
        let (ended, read, _) = tokio::join!(
            self.guest.wait(id, ""),
            output.read_to_end(&mut said),
            errors.read_to_end(&mut complaints)
        );
        read.attempt(|| "read the output".into())?;
        let status = ended?.exit_status;
        if status != 0 || said != rehearsal::LINE {
            let why = format!("status {status}, output {:?}", String::from_utf8_lossy(&said));
            return Err(Error::new(Kind::Guest, "rehearse a container").because(why));
        }
        self.guest.remove(id).await?;
        drop(placed);
        base::file::remove_tree(&bundle_dir)
    }

    async fn stream(&self, id: &str, fd: u8) -> Result<UnixStream> {
        let what = || format!("open stream {fd} of the rehearsal");
        let mut stream = self.running.machine().dial(api::port::STDIO).await?;
        let hello = Hello {
            id: id.to_owned(),
            exec_id: String::new(),
            fd,
        };
        let frame = hello.encode().attempt(what)?;
        stream.write_all(&frame).await.attempt(what)?;
        let mut status = [0];
        stream.read_exact(&mut status).await.attempt(what)?;
        // A refusal has text, which is of no interest.
        match answer(&mut &status[..]) {
            Ok(Ok(())) => Ok(stream),
            _ => Err(Error::new(Kind::Guest, what()).because("the agent refused")),
        }
    }

    /// Returns why, when the machine or its device process has ended.
    pub async fn ended(&self) -> String {
        self.running.lost().await
    }

    /// Whether the guest is stopped.
    pub fn asleep(&self) -> bool {
        self.asleep
    }

    /// Stops the guest: it costs no time any more.
    pub async fn sleep(&mut self) -> Result<()> {
        self.running.machine_mut().set_running(false).await?;
        self.asleep = true;
        Ok(())
    }

    /// Has the guest go on, before it is known for whom.
    pub async fn rouse(&mut self) -> Result<()> {
        if self.asleep {
            self.running.machine_mut().set_running(true).await?;
            self.asleep = false;
        }
        Ok(())
    }

    /// The wire of one of its network devices, for passt. Errors: somebody else has it.
    pub fn wire(&mut self) -> Result<Wire> {
        let wire = self.wire.take();
        wire.ok_or_else(|| Error::new(Kind::Bug, "a machine that waits has one wire"))
    }

    /// Its processes beside this one: they have moved to where this one has, when this one is adopted.
    pub fn processes(&self) -> Vec<i32> {
        let (machine, device) = self.running.save();
        std::iter::once(machine.pid)
            .chain(device.map(|device| device.pid))
            .collect()
    }

    /// It goes on, as the machine of a sandbox whose network is `place`, if it is not a user-mode one. Errors: it is of no use, and
    /// gone.
    pub(crate) async fn wake(
        mut self,
        place: Option<&Place>,
        spans: &mut Spans,
    ) -> Result<(Running, Guest, Option<Network>)> {
        let begin = Instant::now();
        let greeted = async {
            self.rouse().await?;
            self.guest.hello(false).await
        };
        let greeted = tokio::time::timeout(WAKING, greeted).await;
        greeted.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the guest does not wake up")))?;
        spans.end("wake", begin);
        let begin = Instant::now();
        let network = place.map(|place| Network::adopt(place, self.spare)).transpose()?;
        spans.end("network", begin);
        Ok((self.running, self.guest, network))
    }
}
