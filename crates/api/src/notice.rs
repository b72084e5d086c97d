// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How the agent tells the guest's own kernel of a change that the host has made. Events come from system calls only, and each of them
//! reaches the host's file server; this one changes nothing there.

/// Places that a guest may have watched for one container. Either side keeps to it: for the host each is memory of its kernel.
pub const WATCHES: usize = 1024;

/// Seconds of a time of modification that is none: the file server answers as if it had been set. A guest has no other use for it, far
/// beyond the range of the host's file systems.
pub const SECONDS: i64 = 0x6b61_7461_6e6f_7465;
