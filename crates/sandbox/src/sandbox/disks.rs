// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices of a container: plugged before it is made, taken back when it is gone.

use base::{Error, Kind, Result};
use oci::Bundle;
use tokio::sync::oneshot;

use super::{Phase, Sandbox};
use crate::disk::{self, Disk};
use crate::order::Order;

impl Sandbox {
    /// Gives the machine the block devices that the spec names. The answer is for the guest. Errors: with the device; none is given
    /// then.
    pub(super) async fn plug(&self, id: &str, bundle: &Bundle) -> Result<Vec<api::agent::Disk>> {
        let found = disk::find(bundle.spec())?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let (specs, told): (Vec<_>, Vec<_>) = {
            let mut state = self.state();
            let Phase::Up(up) = &mut state.phase else {
                return Err(gone());
            };
            let named = found.into_iter().map(|disk: Disk| {
                up.disks += 1;
                disk.named(format!("kata-{}", up.disks))
            });
            let named: (Vec<_>, Vec<_>) = named.unzip();
            state.container(id)?.disks = named.0.iter().map(|spec| spec.serial.clone()).collect();
            named
        };
        let plugged = self.order(|done| Order::Plug(specs, done)).await;
        if plugged.is_err()
            && let Ok(container) = self.state().container(id)
        {
            container.disks.clear();
        }
        plugged.map(|()| told)
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
