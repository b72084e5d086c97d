// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The host's side of a sandbox's network: the namespace that the engine prepared, and the bridge from its interfaces into the
//! machine.
//!
//! ```text
//!        network namespace (the monitor and all its children live in it)                guest
//!   engine ──── eth0 ◄──── tc: all that comes in goes out of the other ────► kata0 ═══ virtio-net, named eth0
//!               keeps its addresses, so that the engine still sees them      (tap)     same MAC, MTU, addresses, routes
//! ```
//!
//! It knows neither hypervisor nor agent: it gives descriptors to the one and a request to the other.

mod loopback;
mod network;
mod place;
mod plan;
mod scan;
mod sys;
mod tap;
mod traffic;

pub use loopback::Loopback;
pub use network::{Network, Nic, Spare};
pub use place::{Claim, Place, answer};
