// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Device cores: memory, rings and eventfds in, behaviour out. They know no PCI, KVM or vhost-user.
//!
//! Every byte here comes from a guest that is assumed hostile: nothing that it writes may end the process, or make it hold memory or
//! descriptors without bound.

mod dirs;
pub mod fixed;
pub mod fs;
mod listing;
pub mod notice;
mod privilege;
pub mod process;
pub mod session;
pub mod vsock;
