// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The kernel's network configuration, asked for and changed over rtnetlink: interfaces, addresses, routes, neighbours.
//!
//! One small codec for both ends, the host's scan and the guest's agent: calls block for microseconds, nothing runs beside them.
//! It knows no container.

mod address;
mod link;
mod message;
mod neighbour;
mod route;
mod socket;

pub use address::Address;
pub use link::Link;
pub use message::{Attributes, Message};
pub use neighbour::Neighbour;
pub use route::Route;
pub use socket::{Socket, drain, watch};

/// A hardware address of an Ethernet interface.
pub type Mac = [u8; 6];
