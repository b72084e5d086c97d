// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The contracts between our processes: agent, monitor, containerd's Task API, and the stdio stream.
//!
//! Nothing here knows how a call is carried out. Everything that crosses a trust boundary and is not protobuf
//! is parsed by [`stream`], purely and with bounds.

mod generated;
pub mod kind;
pub mod notice;
pub mod pause;
pub mod port;
pub mod stream;
pub mod template;

/// containerd's shim API (Task v2/v3, events, types).
#[cfg(feature = "task")]
pub use containerd_shim_protos as task;
pub use generated::{agent, agent_ttrpc, cri, monitor, monitor_ttrpc, runtime_options};
