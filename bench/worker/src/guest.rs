// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A guest that consists of this program: the drivers of the image, the shared directory, the work, the end.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// The list of modules that every guest image has, one path per line, in their order.
const MODULES: &str = "/etc/kata/modules";
/// The tag of the shared directory.
const TAG: &str = "bench";
const SHARE: &str = "/tmp";

/// Never returns. What fails is said on the console.
pub fn live() -> ! {
    if let Err(e) = share_and_work() {
        eprintln!("bench-worker: {e}");
    }
    nix::unistd::sync();
    // The hypervisor is told not to reboot.
    let Err(e) = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("bench-worker: end the machine: {e}");
    // The kernel panics when its first process ends, and ends the machine too.
    std::process::exit(1)
}

fn share_and_work() -> io::Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_at(kind, kind, place)?;
    }
    for path in fs::read_to_string(MODULES)?.lines() {
        match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
            // Built into the kernel.
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(e) => return Err(about(path, e)),
        }
    }
    mount_at("virtiofs", TAG, SHARE)?;
    let share = Path::new(SHARE);
    let data = share.join("data");
    fs::create_dir(&data)?;
    let told = crate::told(&data, Some(&share.join("fio")))?;
    fs::remove_dir(&data)?;
    fs::write(share.join("result"), told)
}

fn mount_at(kind: &str, what: &str, place: &str) -> io::Result<()> {
    mount(Some(what), place, Some(kind), MsFlags::empty(), None::<&str>).map_err(|e| about(place, e))
}

fn about(what: &str, e: nix::Error) -> io::Error {
    io::Error::other(format!("{what}: {e}"))
}
