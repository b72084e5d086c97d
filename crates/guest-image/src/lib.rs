// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Guest images: the kernel and the initramfs that a sandbox boots. Finds or fetches a kernel, picks the modules
//! that the guest needs, packs them with the agent, and keeps the result in a store.
//!
//! It knows Debian's packages and the boot formats; it knows nothing of sandboxes, and it never runs in the guest.

#![forbid(unsafe_code)]

pub mod apt;
pub mod build;
pub mod bzimage;
pub mod compression;
pub mod deb;
mod digest;
pub mod elf;
mod field;
mod initramfs;
pub mod kernel;
pub mod manifest;
pub mod modules;
pub mod options;
pub mod own;
mod shelf;
pub mod store;

pub use build::{Built, KernelChoice, Progress, Request, build, export};
pub use kernel::Source;
pub use manifest::Manifest;
pub use own::{Kernels, OwnKernel};
pub use store::{GuestImage, Store};
