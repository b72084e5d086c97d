// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a host and a guest that is to be frozen agree on.

/// On the kernel's command line: the guest says [`READY`] when it serves, and does nothing before it is called.
pub const PARAMETER: &str = "kata.template";
/// Tag of the share that it mounts beforehand.
pub const SHARE: &str = "kata";
/// What its console prints when it serves and may be frozen.
pub const READY: &str = "kata-agent: ready to be frozen";
