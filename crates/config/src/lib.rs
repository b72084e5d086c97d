// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What can be configured: one TOML file with drop-ins, read into one struct.
//!
//! ```text
//! default < file < drop-ins, by name < their [profile.NAME] < environment, command line (< annotations that are allowed)
//! ```
//!
//! All keys are in one table ([`definition`]): what reads, shows and documents them goes by it. It is plain data: nothing here knows
//! machines, containers or this host.

pub mod allow;
pub mod definition;
pub mod document;
pub mod fault;
pub mod kata;
pub mod layers;
pub mod packaged;
pub mod selection;
pub mod value;

pub use definition::Config;
pub use fault::{Fault, Faults};
pub use layers::{Loaded, Origin};
pub use selection::Selection;
