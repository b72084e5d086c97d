// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! From the first instruction to a guest that can hold containers: no process is started, nothing waits. It does not know what is
//! served afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base::log::Format;
use base::{Context, Error, Kind, Result};
use log::LevelFilter;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::sethostname;

use crate::{modules, mounts, sys, template};

/// Most descriptors of a process, unless the container says otherwise. As container engines have it.
const DESCRIPTORS: u64 = 1 << 20;
/// Devices that were found and have their drivers.
const DEVICES: &str = "/sys/bus/virtio/devices";
/// On the kernel's command line: log everything.
const DEBUG: &str = "kata.debug";

/// Proof that it has booted.
#[derive(Debug)]
pub struct Booted {
    /// It is to be frozen.
    pub template: bool,
}

/// Boots. Errors: with the step that failed; nothing can be done then.
pub fn boot() -> Result<Booted> {
    let mut steps = Steps::new();
    steps.step("root", mounts::make_root)?;
    steps.step("mounts", mounts::make)?;
    let line = fs::read_to_string("/proc/cmdline").attempt(|| "read the kernel's command line".into())?;
    start_log(&line)?;
    steps.step("modules", modules::load)?;
    steps.step("devices", || have_devices(Path::new(DEVICES)))?;
    steps.step("network", || {
        sys::loopback_up().attempt(|| "bring up the loopback interface".into())
    })?;
    steps.step("identity", || {
        sethostname("kata").attempt(|| "set the host name".into())?;
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).attempt(|| "raise the limit of descriptors".into())
    })?;
    log::info!("booted: {}", steps.told());
    Ok(Booted {
        template: template::wanted(&line),
    })
}

/// An emulated kernel misses its bus now and then: better to end than to wait for a host that cannot be reached.
fn have_devices(devices: &Path) -> Result<()> {
    let mut found = fs::read_dir(devices).attempt(|| format!("list {}", devices.display()))?;
    match found.next() {
        Some(_) => Ok(()),
        None => Err(Error::new(
            Kind::Guest,
            "the kernel has found no virtio device: there is no way to the host",
        )),
    }
}

fn start_log(line: &str) -> Result<()> {
    let level = if line.split_ascii_whitespace().any(|word| word == DEBUG) {
        LevelFilter::Debug
    } else {
        LevelFilter::Warn
    };
    base::log::start("kata-agent", None, Format::Text, level)
}

/// How long each step took.
#[derive(Debug)]
struct Steps {
    since: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn new() -> Steps {
        Steps {
            since: Instant::now(),
            taken: Vec::new(),
        }
    }

    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        work()?;
        let now = Instant::now();
        self.taken.push((name, now - self.since));
        self.since = now;
        Ok(())
    }

    fn told(&self) -> String {
        let one = |(name, time): &(&str, Duration)| format!("{name} {:.1} ms", time.as_secs_f64() * 1000.0);
        self.taken.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_without_devices_ends_the_boot() {
        let bus = tempfile::tempdir().unwrap();
        assert_eq!(have_devices(bus.path()).unwrap_err().kind(), Kind::Guest);
        fs::write(bus.path().join("virtio0"), "").unwrap();
        have_devices(bus.path()).unwrap();
    }

    #[test]
    fn steps_are_told_in_order_and_the_first_failure_ends() {
        let mut steps = Steps::new();
        steps.step("a", || Ok(())).unwrap();
        steps.step("b", || Ok(())).unwrap();
        let error = steps.step("c", || Err(Error::new(Kind::Io, "mount /c"))).unwrap_err();
        assert_eq!(error.chain(), "mount /c");
        let told = steps.told();
        assert!(
            told.starts_with("a ") && told.contains(", b ") && !told.contains('c'),
            "{told}"
        );
    }
}
