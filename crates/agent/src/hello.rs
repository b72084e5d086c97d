// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The first call: what the host knows better than the guest, and what it wants to know of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use api::agent::{HelloRequest, HelloResponse};
use base::{Context, Error, Kind, Result};
use nix::sys::sysinfo::sysinfo;
use nix::sys::time::TimeSpec;
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{SysconfVar, sysconf};

use crate::sys;

/// More randomness than this is no use.
const MOST_ENTROPY: usize = 4096;

/// Sets the clock, takes the randomness, says what this is.
pub fn hello(request: &HelloRequest) -> Result<HelloResponse> {
    if request.wall_clock_ns != 0 {
        let now = TimeSpec::from_duration(Duration::from_nanos(request.wall_clock_ns));
        clock_settime(ClockId::CLOCK_REALTIME, now).attempt(|| "set the clock".into())?;
    }
    if !request.entropy.is_empty() {
        take_entropy(&request.entropy)?;
    }
    let what = || "look at the machine".to_owned();
    let memory = sysinfo().attempt(what)?;
    let system = uname().attempt(what)?;
    // Not what cgroups leave of them, which takes a dozen system calls to find out.
    let vcpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).attempt(what)?;
    Ok(HelloResponse {
        agent_version: env!("CARGO_PKG_VERSION").into(),
        kernel_release: system.release().to_string_lossy().into_owned(),
        vcpus: vcpus.and_then(|vcpus| u32::try_from(vcpus).ok()).unwrap_or(1),
        memory_bytes: memory.ram_total(),
        ..HelloResponse::default()
    })
}

fn take_entropy(entropy: &[u8]) -> Result<()> {
    if entropy.len() > MOST_ENTROPY {
        let what = format!("{} bytes of entropy, at most {MOST_ENTROPY} are taken", entropy.len());
        return Err(Error::new(Kind::Invalid, what));
    }
    let what = || "add entropy to /dev/urandom".to_owned();
    let random = File::open("/dev/urandom").attempt(what)?;
    sys::add_entropy(random.as_fd(), entropy).attempt(what)
}
