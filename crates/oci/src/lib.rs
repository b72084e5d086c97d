// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What engines hand to a runtime and read from it, as the OCI runtime specification has it: bundles, the starter spec, the state
//! document, features; and our annotations as typed overrides.
//!
//! Nothing here knows machines, monitors or the guest.

pub mod annotations;
pub mod bundle;
pub mod devices;
pub mod features;
pub mod pod;
pub mod starter;
pub mod state;

pub use annotations::Overrides;
pub use bundle::{Bundle, Moment};
pub use oci_spec::runtime as spec;
pub use state::{State, Status};
