// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the integration tests stand on: a world of its own per test (root directory, bundle, rootfs), the reference runtime and
//! ours behind one command line, and a leak check at the end of each world.

pub mod behaviour;
pub mod buildah;
pub mod bundle;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod docker;
pub mod engine;
pub mod leak;
pub mod node;
pub mod pod;
pub mod podman;
pub mod process;
pub mod shim;
pub mod software;
pub mod streaming;
pub mod suite;
pub mod systemd;
pub mod terminal;
pub mod trial;
pub mod wire;
pub mod world;

pub use bundle::Bundle;
pub use command::Outcome;
pub use trial::{Verdict, both, ours};
pub use wire::Wire;
pub use world::{Runtime, World};
