// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The line between the network of the host and that of the guest: what changes there is told here, by one task that owns both
//! ends, until the machine has ended.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use machine::{NicEnd, NicSpec};
use net::{Network, Nic};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::forward::Forward;
use crate::guest::Guest;
use crate::resolver::Resolver;
use crate::span::Spans;
use crate::sys;

/// An engine makes an interface in many steps: the last of them is waited for.
const SETTLE: Duration = Duration::from_millis(50);

/// Network devices, for a machine.
pub fn specs(nics: Vec<Nic>) -> Vec<NicSpec> {
    let nics = nics.into_iter().map(|nic| NicSpec {
        mac: nic.mac,
        end: NicEnd::Tap(nic.tap),
    });
    nics.collect()
}

/// See the module. The last clone of it ends the task, and with it all redirections.
#[derive(Debug, Clone)]
pub struct Line(mpsc::Sender<oneshot::Sender<Result<()>>>);

impl Line {
    /// Tells the guest its network; from then on, whenever it changes.
    pub async fn connect(network: Network, resolver: Resolver, guest: Guest, spans: &mut Spans) -> Result<Line> {
        let begin = Instant::now();
        let forward = Forward::start(resolver.dir())
            .inspect_err(|e| log::info!("the guest's loopback interface is for the guest alone: {}", e.chain()));
        let mut ends = Ends {
            network,
            resolver,
            guest,
            _forward: forward.ok(),
        };
        let watch = netlink::watch()?;
        ends.tell().await?;
        spans.end("interfaces", begin.into_std());
        let (line, orders) = mpsc::channel(1);
        let watch = sys::watch(watch).attempt(|| "watch the network".into())?;
        tokio::spawn(serve(ends, watch, orders));
        Ok(Line(line))
    }

    /// Returns when the guest knows all that has changed so far.
    pub async fn refresh(&self) -> Result<()> {
        let gone = || Error::new(Kind::Gone, "the machine's network has ended");
        let (done, answer) = oneshot::channel();
        self.0.send(done).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve(mut ends: Ends, watch: AsyncFd<OwnedFd>, mut orders: mpsc::Receiver<oneshot::Sender<Result<()>>>) {
    let mut due = None;
    loop {
        let settled = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(done) => {
                    due = None;
                    // Whoever asked may have gone.
                    let _ = done.send(ends.tell().await);
                }
                None => return,
            },
            changed = watch.readable() => {
                let Ok(mut changed) = changed else { return };
                netlink::drain(watch.get_ref().as_fd());
                changed.clear_ready();
                due = Some(Instant::now() + SETTLE);
            }
            () = settled => {
                due = None;
                if let Err(e) = ends.tell().await {
                    log::warn!("{}", e.chain());
                }
            }
        }
    }
}

/// Of a line.
#[derive(Debug)]
struct Ends {
    network: Network,
    resolver: Resolver,
    guest: Guest,
    /// Not on every kernel.
    _forward: Option<Forward>,
}

impl Ends {
    async fn tell(&mut self) -> Result<()> {
        let server = self.resolver.look()?;
        if let Some(request) = self.network.look(server)? {
            self.guest.configure_network(&request).await?;
            self.network.told(request);
        }
        Ok(())
    }
}
