// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The monitor's end of the leases (see [`crate::runtime::lease`]): each ties a container that is being made to its creator. The first
//! comes with the monitor, those of further containers come in at `lease.sock`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use sandbox::{Origin, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::berth::{self, Berth};
use crate::runtime::lease::{RELEASE, SOCKET, UNDONE};
use crate::shim::refusal;

/// How long a creator may take to say which container it makes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a lease.
#[derive(Debug)]
pub enum Outcome {
    /// The container lives on its own.
    Released,
    /// Its creator has died or given up.
    Abandoned(Tenant),
    /// Nothing of it is left, or it came to nothing.
    Over,
}

/// A container that is being made.
#[derive(Debug)]
pub struct Tenant {
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    lease: UnixStream,
}

/// All that are held.
#[derive(Debug)]
pub struct Leases {
    listener: UnixListener,
    /// The sandbox's directory.
    home: PathBuf,
    sandbox: Arc<Sandbox>,
    held: JoinSet<Outcome>,
}

impl Leases {
    /// Takes them at the door of the sandbox in `home`.
    pub fn open(home: &Path, sandbox: &Arc<Sandbox>) -> Result<Leases> {
        let listener = base::socket::listen(&home.join(SOCKET))?;
        listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        Ok(Leases {
            listener: UnixListener::from_std(listener).attempt(|| "watch a listener".into())?,
            home: home.to_owned(),
            sandbox: Arc::clone(sandbox),
            held: JoinSet::new(),
        })
    }

    /// The one that came with us, for the container `id` with the directory `dir`.
    pub fn hold(&mut self, lease: UnixStream, id: &str, dir: &Path) {
        let tenant = Tenant {
            id: id.to_owned(),
            dir: dir.to_owned(),
            lease,
        };
        self.held.spawn(tend(Arc::clone(&self.sandbox), tenant));
    }

    /// None is held.
    pub fn none(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes what comes in; returns when one has ended.
    pub async fn next(&mut self) -> Outcome {
        loop {
            tokio::select! {
                arrived = self.listener.accept() => {
                    if let Ok((lease, _)) = arrived {
                        self.held.spawn(admit(Arc::clone(&self.sandbox), self.home.clone(), lease));
                    }
                }
                Some(ended) = self.held.join_next() => return ended.unwrap_or(Outcome::Over),
            }
        }
    }

    /// Takes the container away; others live on.
    pub fn undo(&mut self, tenant: Tenant) {
        let sandbox = Arc::clone(&self.sandbox);
        self.held.spawn(async move {
            let Tenant { id, dir, mut lease } = tenant;
            sandbox.discard(&id).await;
            // It waits for the last of its processes, whose calls we answer meanwhile.
            let cleared = tokio::task::spawn_blocking(move || berth::clear(&dir)).await;
            if let Ok(Err(e)) = cleared {
                log::warn!("{}", e.chain());
            }
            let _ = lease.write_all(UNDONE).await;
            Outcome::Over
        });
    }
}

async fn admit(sandbox: Arc<Sandbox>, home: PathBuf, mut lease: UnixStream) -> Outcome {
    let entered = tokio::time::timeout(PATIENCE, enter(&sandbox, &home, &mut lease)).await;
    let late = || Err(Error::new(Kind::Timeout, "wait for the id of a container"));
    match entered.unwrap_or_else(|_| late()) {
        Ok((id, dir)) => tend(sandbox, Tenant { id, dir, lease }).await,
        Err(e) => {
            let line = format!("error {}\n", refusal(&e).replace('\n', " "));
            let _ = lease.write_all(line.as_bytes()).await;
            Outcome::Over
        }
    }
}

async fn enter(sandbox: &Sandbox, home: &Path, lease: &mut UnixStream) -> Result<(String, PathBuf)> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() <= base::id::MAX {
        let read = lease.read_u8().await;
        line.push(read.context(Kind::Gone, || "read the id of a container".into())?);
    }
    let id = String::from_utf8_lossy(&line).trim_end().to_owned();
    base::id::check(&id)?;
    let creator = lease.peer_cred().attempt(|| "look who makes a container".into())?;
    let creator = creator.pid().unwrap_or_default();
    sandbox.expect(&id, Origin::of(creator)?)?;
    let entered = async {
        let berth = Berth::take(home, &id)?;
        let told = lease.write_all(b"ready\n").await;
        told.context(Kind::Gone, || "tell that we are ready".into())?;
        Ok(berth.keep())
    };
    match entered.await {
        Ok(dir) => Ok((id, dir)),
        Err(e) => {
            sandbox.unexpect(&id);
            Err(e)
        }
    }
}

async fn tend(sandbox: Arc<Sandbox>, mut tenant: Tenant) -> Outcome {
    let mut word = Vec::new();
    while let Ok(1..) = tenant.lease.read_buf(&mut word).await {
        if word.ends_with(RELEASE) {
            sandbox.unexpect(&tenant.id);
            return Outcome::Released;
        }
    }
    Outcome::Abandoned(tenant)
}
