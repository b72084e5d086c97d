// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What every other crate stands on: errors with a kind, the log sink, descriptors, files that are replaced
//! whole, ids. It knows no async runtime and no product of ours.

pub mod error;
pub mod file;
pub mod id;
pub mod inherited;
pub mod log;
pub mod pidfd;
pub mod socket;
mod sys;

pub use error::{Context, Error, Kind, Result};
