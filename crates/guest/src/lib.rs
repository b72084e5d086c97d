// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Containers inside the guest: what an OCI runtime does once it is on the machine that runs the container.
//!
//! The agent (PID 1) owns the processes: it reaps all of them, this crate never waits for a child of the
//! agent. Creating a container or a further process re-executes the agent's own binary as a single-threaded
//! helper ([`init::main`]), which forks the container's process and ends; the process is then a child of
//! PID 1. The two sides talk over one socket (see `channel`). The first container's process can be made
//! before the container is known ([`Nests`]).
//!
//! It does not know the host, the RPC or the streams' far ends.

mod capability;
pub mod cgroup;
mod channel;
mod console;
mod container;
mod device;
mod disk;
mod file_system;
mod hook;
pub mod init;
mod launch;
pub mod localize;
mod mount;
pub mod namespace;
mod nest;
mod pause;
mod program;
mod rlimit;
mod rootfs;
mod seccomp;
mod stock;
mod sys;
pub mod table;
mod task;
mod tree;
mod user;
pub mod validate;

pub use container::{Attachment, Container, Create};
pub use disk::Disk;
pub use file_system::FileSystem;
pub use launch::{Process, Stdio};
pub use namespace::Join;
pub use nest::Nests;
pub use oci_spec::runtime::LinuxNamespaceType;
pub use task::Task;
