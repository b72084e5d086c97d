// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the kernel says of one process. It may end at any moment: then there is as much as was read.

use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit};

use crate::family::{self, Family};
use crate::items;
use crate::page::Page;
use crate::proc::{self, Row, Stat};

/// The kernel counts processor time for programs in hundredths of a second, on every machine.
pub const TICKS: f64 = 100.0;
/// On the machines that we run on.
pub const PAGE_BYTES: u64 = 4096;
/// As many interfaces of a namespace are told.
const INTERFACES: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Times and sizes.
    pub stat: Stat,
    /// By the kernel's names; sizes in KiB.
    pub status: Vec<(String, u64)>,
    /// By the kernel's names.
    pub io: Vec<(String, u64)>,
    /// Open file descriptors.
    pub fds: Option<u64>,
    dir: PathBuf,
}

impl Process {
    /// The one with this pid, if it is the one that was started then (clock ticks since the boot), or nobody says when.
    pub fn read(pid: i32, started: Option<u64>) -> Option<Process> {
        let process = Process::at(format!("/proc/{pid}").into())?;
        started
            .is_none_or(|started| started == process.stat.started)
            .then_some(process)
    }

    /// Our own.
    pub fn own() -> Option<Process> {
        Process::at("/proc/self".into())
    }

    fn at(dir: PathBuf) -> Option<Process> {
        let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let pairs = |file: &str| {
            let text = text(file);
            proc::pairs(&text)
                .into_iter()
                .map(|(name, number)| (name.to_owned(), number))
                .collect()
        };
        Some(Process {
            stat: proc::stat(&text("stat"))?,
            status: pairs("status"),
            io: pairs("io"),
            fds: fs::read_dir(dir.join("fd")).ok().map(|fds| fds.count() as u64),
            dir,
        })
    }

    /// Its memory, bytes, with its share of what it shares. The kernel counts pages for it: that takes a while for a large one.
    pub fn pss(&self) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join("smaps_rollup")).ok()?;
        let found = proc::pairs(&text).into_iter().find(|(name, _)| *name == "Pss")?;
        found.1.checked_mul(1024)
    }

    /// The interfaces that it sees.
    pub fn interfaces(&self) -> Vec<Row> {
        let mut rows = proc::interfaces(&fs::read_to_string(self.dir.join("net/dev")).unwrap_or_default());
        rows.truncate(INTERFACES);
        rows
    }

    /// Processor time, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        (self.stat.user.saturating_add(self.stat.system)) as f64 / TICKS
    }

    /// Bytes.
    pub fn resident(&self) -> u64 {
        self.stat.resident_pages.saturating_mul(PAGE_BYTES)
    }

    /// When it was started, seconds since the epoch.
    pub fn start_time(&self) -> Option<f64> {
        let boot = proc::boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
        Some(boot as f64 + self.stat.started as f64 / TICKS)
    }
}

/// How many file descriptors we may have open.
pub fn own_max_fds() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// The families of one kind of process, as Kata names them.
#[derive(Debug)]
pub struct Families {
    stat: &'static Family,
    status: &'static Family,
    io: &'static Family,
    fds: &'static Family,
    threads: &'static Family,
    pss: &'static Family,
}

/// Of the sandbox's monitor.
pub static SHIM: Families = Families {
    stat: &family::SHIM_PROC_STAT,
    status: &family::SHIM_PROC_STATUS,
    io: &family::SHIM_IO_STAT,
    fds: &family::SHIM_FDS,
    threads: &family::SHIM_THREADS,
    pss: &family::SHIM_PSS,
};

/// Of the device process.
pub static DEVICE: Families = Families {
    stat: &family::DEVICE_PROC_STAT,
    status: &family::DEVICE_PROC_STATUS,
    io: &family::DEVICE_IO_STAT,
    fds: &family::DEVICE_FDS,
    threads: &family::DEVICE_THREADS,
    pss: &family::DEVICE_PSS,
};

/// Of the hypervisor.
pub static HYPERVISOR: Families = Families {
    stat: &family::HYPERVISOR_PROC_STAT,
    status: &family::HYPERVISOR_PROC_STATUS,
    io: &family::HYPERVISOR_IO_STAT,
    fds: &family::HYPERVISOR_FDS,
    threads: &family::HYPERVISOR_THREADS,
    pss: &family::HYPERVISOR_PSS,
};

impl Families {
    /// Adds what is known of a process.
    pub fn write(&self, process: &Process, page: &mut Page) {
        stat(self.stat, &process.stat, page);
        named(self.status, items::STATUS, &process.status, page);
        named(self.io, items::IO, &process.io, page);
        page.put(self.fds, process.fds);
        page.put(self.threads, Some(process.stat.threads));
        page.put(self.pss, process.pss());
    }
}

/// Adds the times of a process.
pub(crate) fn stat(family: &'static Family, stat: &Stat, page: &mut Page) {
    let items = [
        ("utime", stat.user),
        ("stime", stat.system),
        ("cutime", stat.children_user),
        ("cstime", stat.children_system),
    ];
    for (item, ticks) in items {
        page.set(family, &[item], ticks as f64);
    }
}

/// Adds those of `found` that have a name in `items`.
pub(crate) fn named(family: &'static Family, items: &[(&str, &str)], found: &[(String, u64)], page: &mut Page) {
    for (name, number) in found {
        if let Some((_, item)) = items.iter().find(|(known, _)| known == name) {
            page.set(family, &[item], *number as f64);
        }
    }
}

/// Adds interfaces of the host, by their names.
pub fn netdev(family: &'static Family, rows: &[Row], page: &mut Page) {
    for row in rows {
        for (item, number) in items::NETDEV.iter().zip(&row.numbers) {
            page.set(family, &[&row.name, item], *number as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Format;

    #[test]
    fn our_own_process_is_told_and_none_that_has_another_start() {
        let own = Process::own().unwrap();
        assert!(own.fds.unwrap() >= 3 && own.resident() > 0 && own.pss().unwrap() > 0);
        assert!(own.start_time().unwrap() > 1e9 && own_max_fds().unwrap() > 0);
        let mut page = Page::new(Format::Text);
        SHIM.write(&own, &mut page);
        netdev(&family::SHIM_NETDEV, &own.interfaces(), &mut page);
        let text = page.render();
        for line in [
            "proc_stat{item=\"utime\"}",
            "proc_status{item=\"vmrss\"}",
            "io_stat{item=\"readbytes\"}",
            "netdev{interface=\"lo\"",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(Process::read(pid, Some(own.stat.started)).is_some());
        assert!(Process::read(pid, Some(own.stat.started + 1)).is_none());
        assert!(Process::read(i32::MAX, None).is_none());
    }
}
