// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The heart of a monitor: one sandbox (a machine) with its containers and their processes, from the first mount to the last
//! unmount. All front ends reach it through the two services in [`service`].
//!
//! It names no backend and parses no byte of the guest but answers of its agent. One thread: nothing here forks or blocks for long.

mod changes;
mod container;
mod device;
mod disk;
mod forward;
mod guest;
mod keeper;
mod layers;
mod loop_device;
mod memory;
pub mod metrics;
mod namespace;
mod network;
mod order;
mod origin;
pub mod passt;
mod process;
mod rehearsal;
mod resolver;
mod root;
mod sandbox;
pub mod saved;
pub mod service;
pub mod share;
mod size;
mod span;
pub mod standby;
mod stats;
mod sys;
mod turn;

pub use device::DeviceProcess;
pub use keeper::{Blueprint, Patience, end_of};
pub use origin::Origin;
pub use sandbox::Sandbox;
pub use share::Share;
pub use size::{Measure, Size};
pub use span::{Span, Spans};
pub use turn::Queue;
