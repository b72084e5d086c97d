// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is asked of a running machine. Its keeper owns it: everybody else sends an order.

use std::ops::Range;

use base::Result;
use machine::{DiskSpec, Machine};
use tokio::sync::oneshot;

/// See the module. Without an answer the machine has ended.
#[derive(Debug)]
pub enum Order {
    /// The guest does not use these addresses any more: the host may have what was there. Told when that is done.
    Discard(Vec<Range<u64>>, oneshot::Sender<()>),
    /// The guest shall find these block devices.
    Plug(Vec<DiskSpec>, oneshot::Sender<Result<()>>),
    /// The guest has let go of block devices with these serial numbers.
    Unplug(Vec<String>, oneshot::Sender<Result<()>>),
}

impl Order {
    /// Does what is asked for.
    pub async fn carry_out(self, machine: &mut dyn Machine) {
        match self {
            Order::Discard(unused, done) => {
                for addresses in unused {
                    if let Err(e) = machine.discard(&addresses) {
                        log::warn!("{}", e.chain());
                    }
                }
                let _ = done.send(());
            }
            Order::Plug(disks, done) => {
                let _ = done.send(machine.plug(&disks).await);
            }
            Order::Unplug(serials, done) => {
                let _ = done.send(machine.unplug(&serials).await);
            }
        }
    }
}
