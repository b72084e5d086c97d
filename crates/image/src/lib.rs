// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Container images: found in a registry, an OCI layout or a docker archive, kept once by digest, unpacked once per
//! layer in overlayfs format. It knows no sandbox, makes no mount and draws no progress bar.

mod archive;
mod attributes;
pub mod compression;
mod digest;
mod image;
mod job;
mod layout;
mod manifest;
mod refs;
mod registry;
mod source;
mod sparse;
mod stack;
mod store;
pub mod tarball;
mod unpack;

pub use digest::Digest;
pub use image::Image;
pub use job::{Cancel, Job, Meter, Progress, Silent, Step};
pub use refs::Named;
pub use source::Source;
pub use stack::Stack;
pub use store::{InUse, Store, Swept};
pub use unpack::unpack;
