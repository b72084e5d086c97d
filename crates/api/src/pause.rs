// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a shim and a monitor agree on for a pod without a container of the engine's.

/// Type of the options of a container that only holds namespaces for others, see the agent's `CreateContainerRequest`. They are empty.
pub const OPTIONS: &str = "kata.dev/pause";
