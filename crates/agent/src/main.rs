// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata-agent`: PID 1 of the guest. Boots it, then serves the host: containers and their processes over ttrpc, their standard
//! streams over raw connections. It knows no host paths and no engine.
//!
//! One thread runs everything that waits; calls of the container library, which block for milliseconds, get a thread of their own.

mod boot;
mod container;
mod containers;
mod disk;
mod events;
mod forward;
mod hello;
mod holdings;
mod layers;
mod lock;
mod memory;
mod metrics;
mod modules;
mod mounts;
mod network;
mod nic;
mod notice;
mod power;
mod process;
mod reaper;
mod registry;
mod relay;
mod resolver;
mod service;
mod share;
mod size;
mod stdio;
mod streams;
mod sys;
mod template;
mod watches;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The helper that makes a container's process is this same program.
    if let Some(code) = guest::init::main() {
        return code;
    }
    if std::process::id() != 1 {
        eprintln!("kata-agent: it is the first process of a guest, and nothing else");
        return ExitCode::FAILURE;
    }
    match boot::boot().and_then(service::run) {
        Ok(never) => match never {},
        Err(e) => power::fail(&e),
    }
}
