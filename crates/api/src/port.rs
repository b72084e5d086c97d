// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! vsock ports. 1024 to 1027 are Kata's numbers.

/// Agent's ttrpc service; also the host's port at which a booted agent knocks once (connect, close).
pub const CONTROL: u32 = 1024;
/// Raw standard streams, each opened with a [`crate::stream::Hello`].
pub const STDIO: u32 = 1027;
/// Of the host: the name server that the engine runs beside the container, spoken to as over TCP.
pub const RESOLVER: u32 = 1029;
/// Connections to services on the guest's loopback interface: the host sends two bytes, the port of TCP, the agent answers with a
/// byte when it has connected, or closes.
pub const FORWARD: u32 = 1030;
