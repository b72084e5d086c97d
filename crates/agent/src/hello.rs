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
const RANDOM: &str = "/dev/urandom";

/// Answers it. Made while nobody waits: of a guest that goes on in copies, before it is frozen.
#[derive(Debug)]
pub struct Greeter {
    random: File,
    answer: HelloResponse,
}

impl Greeter {
    /// Looks at what this is.
    pub fn new() -> Result<Greeter> {
        let what = || "look at the machine".to_owned();
        let memory = sysinfo().attempt(what)?;
        let system = uname().attempt(what)?;
        // Not what cgroups leave of them, which takes a dozen system calls to find out.
        let vcpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).attempt(what)?;
        Ok(Greeter {
            random: File::open(RANDOM).attempt(|| format!("open {RANDOM}"))?,
            answer: HelloResponse {
                agent_version: env!("CARGO_PKG_VERSION").into(),
                kernel_release: system.release().to_string_lossy().into_owned(),
                vcpus: vcpus.and_then(|vcpus| u32::try_from(vcpus).ok()).unwrap_or(1),
                memory_bytes: memory.ram_total(),
                ..HelloResponse::default()
            },
        })
    }

    /// Sets the clock, takes the randomness, says what this is.
    pub fn hello(&self, request: &HelloRequest) -> Result<HelloResponse> {
        if request.wall_clock_ns != 0 {
            let now = TimeSpec::from_duration(Duration::from_nanos(request.wall_clock_ns));
            clock_settime(ClockId::CLOCK_REALTIME, now).attempt(|| "set the clock".into())?;
        }
        if !request.entropy.is_empty() {
            self.take(&request.entropy)?;
        }
        Ok(self.answer.clone())
    }

    fn take(&self, entropy: &[u8]) -> Result<()> {
        if entropy.len() > MOST_ENTROPY {
            let what = format!("{} bytes of entropy, at most {MOST_ENTROPY} are taken", entropy.len());
            return Err(Error::new(Kind::Invalid, what));
        }
        sys::add_entropy(self.random.as_fd(), entropy).attempt(|| format!("add entropy to {RANDOM}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_machine_before_it_is_asked() {
        let answer = Greeter::new().unwrap().hello(&HelloRequest::default()).unwrap();
        assert!(answer.vcpus > 0 && answer.memory_bytes > 0);
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(answer.kernel_release, release.trim());
    }

    #[test]
    fn more_randomness_than_is_of_use_is_refused() {
        let request = HelloRequest {
            entropy: vec![0; MOST_ENTROPY + 1],
            ..HelloRequest::default()
        };
        let error = Greeter::new().unwrap().hello(&request).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
