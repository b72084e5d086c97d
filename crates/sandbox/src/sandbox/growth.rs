// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Limits that change while the machine runs, and the machine with them: there is room before a limit rises, and what is not needed
//! goes after it has fallen. How far that went is told; a limit holds in any case, for the container's control group keeps it.

use std::ops::Range;

use api::agent::{Addresses, ResizeRequest};
use base::{Context, Kind, Result};
use oci::spec::LinuxResources;
use tokio::sync::oneshot;

use super::{Phase, Sandbox};
use crate::order::Order;
use crate::size::{Limits, Size};

const MIB: u64 = 1 << 20;

/// How large the machine is, and may be.
#[derive(Debug, Clone)]
pub struct Extent {
    /// To begin with.
    begun: Size,
    /// What was asked for last.
    asked: Size,
    /// Where more memory is.
    places: Vec<Range<u64>>,
}

impl Extent {
    /// Of a machine that has just begun.
    pub fn new(size: Size, places: Vec<Range<u64>>) -> Extent {
        Extent {
            begun: size,
            asked: size,
            places,
        }
    }

    /// What was asked for last.
    pub fn size(&self) -> Size {
        self.asked
    }
}

impl Sandbox {
    /// Changes limits: `linux.resources` as JSON. Errors: a limit does not hold.
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<()> {
        let guest = self.guest_of(id, |_| Ok(()))?;
        let changes: LinuxResources =
            serde_json::from_slice(&resources).context(Kind::Invalid, || "read the resources".into())?;
        let _alone = self.sizing.lock().await;
        let before = self.state().container(id)?.limits;
        let smaller = self.wanted();
        self.state().container(id)?.limits.update(&changes);
        if let (Some(one), Some(other)) = (smaller, self.wanted()) {
            self.fit(one.or_more(other)).await;
        }
        let updated = guest.update(id, resources).await;
        if updated.is_err()
            && let Ok(container) = self.state().container(id)
        {
            container.limits = before;
        }
        if let Some(wanted) = self.wanted() {
            self.fit(wanted).await;
        }
        updated
    }

    /// Makes room for a container that was not there when the machine began, or takes back what one has left.
    pub(super) async fn measure(&self) {
        let _alone = self.sizing.lock().await;
        if let Some(wanted) = self.wanted() {
            self.fit(wanted).await;
        }
    }

    /// What the containers ask for; none without a machine.
    fn wanted(&self) -> Option<Size> {
        let state = self.state();
        let Phase::Up(up) = &state.phase else {
            return None;
        };
        let limits: Vec<Limits> = state.containers.values().map(|container| container.limits).collect();
        Some(self.plan.size_of(&limits, up.extent.begun))
    }

    /// Makes the machine as large as `wanted`, as far as that goes.
    async fn fit(&self, wanted: Size) {
        let extent = match &mut self.state().phase {
            Phase::Up(up) if up.extent.asked != wanted => {
                up.extent.asked = wanted;
                up.extent.clone()
            }
            _ => return,
        };
        let Ok(guest) = self.guest() else { return };
        let places = extent.places.iter().map(|place| Addresses {
            start: place.start,
            end: place.end,
            ..Addresses::default()
        });
        let more = wanted.memory_mib.saturating_sub(extent.begun.memory_mib);
        let request = ResizeRequest {
            vcpus: wanted.vcpus,
            more_memory: more.saturating_mul(MIB),
            places: places.collect(),
            ..ResizeRequest::default()
        };
        let reached = match guest.set_size(&request).await {
            Ok(reached) => reached,
            Err(e) => {
                log::warn!("change the size of the machine of sandbox {}: {}", self.id, e.chain());
                return;
            }
        };
        let memory = extent.begun.memory_mib.saturating_add(reached.more_memory / MIB);
        let told = format!(
            "the machine of sandbox {} has {} vCPUs and {memory} MiB",
            self.id, reached.vcpus
        );
        if reached.reason.is_empty() {
            log::info!("{told}");
        } else {
            let Size { vcpus, memory_mib } = wanted;
            log::warn!("{told}, not {vcpus} and {memory_mib} MiB: {}", reached.reason);
        }
        let unused = reached.unused.iter().map(|unused| unused.start..unused.end);
        let (done, discarded) = oneshot::channel();
        if let Phase::Up(up) = &self.state().phase {
            let _ = up.orders.send(Order::Discard(unused.collect(), done));
        }
        // Before the guest may use it again.
        let _ = discarded.await;
    }
}
