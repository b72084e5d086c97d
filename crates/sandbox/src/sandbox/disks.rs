// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices of a container: plugged before it is made, taken back when it is gone.

use api::agent::attachment::Source;
use base::{Error, Kind, Result};
use oci::Bundle;
use tokio::sync::oneshot;

use super::{Phase, Sandbox};
use crate::disk::{self, Disk};
use crate::order::Order;
use crate::root::Root;

impl Sandbox {
    /// Gives the machine the block devices that the spec names, and that of the root file system. The answer is for the guest. Errors:
    /// with the device; none is given then.
    pub(super) async fn plug(
        &self,
        id: &str,
        bundle: &Bundle,
        root: Option<Root>,
    ) -> Result<(Vec<api::agent::Disk>, Option<Source>)> {
        let found = disk::find(bundle.spec())?;
        if found.is_empty() && root.is_none() {
            return Ok((Vec::new(), None));
        }
        let (specs, told, mounted) = {
            let mut state = self.state();
            let Phase::Up(up) = &mut state.phase else {
                return Err(gone());
            };
            let mut name = || {
                up.disks += 1;
                format!("kata-{}", up.disks)
            };
            let named = found.into_iter().map(|disk: Disk| disk.named(name()));
            let (mut specs, mut told): (Vec<_>, Vec<_>) = named.unzip();
            let mounted = root.map(|root| {
                let (spec, disk, mounted) = root.named(name(), id);
                specs.push(spec);
                told.push(disk);
                mounted
            });
            state.container(id)?.disks = specs.iter().map(|spec| spec.serial.clone()).collect();
            (specs, told, mounted)
        };
        let plugged = self.order(|done| Order::Plug(specs, done)).await;
        if plugged.is_err()
            && let Ok(container) = self.state().container(id)
        {
            container.disks.clear();
        }
        plugged.map(|()| (told, mounted))
    }

    /// Takes them back. A guest that does not let them go keeps them until its end.
    pub(super) async fn unplug(&self, serials: Vec<String>) {
        if serials.is_empty() {
            return;
        }
        if let Err(e) = self.order(|done| Order::Unplug(serials, done)).await {
            log::warn!("{}", e.chain());
        }
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<Result<()>>) -> Order) -> Result<()> {
        let (done, answer) = oneshot::channel();
        match &self.state().phase {
            Phase::Up(up) => {
                let _ = up.orders.send(order(done));
            }
            _ => return Err(gone()),
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::new(Kind::Gone, "the machine of the sandbox has ended")
}
