// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A guest that is frozen when it serves, and goes on in copies: each of them has devices where the template has none.
//!
//! Until a copy has been greeted, nothing may happen here that must differ between copies: no random number, no boot id.

use std::fs::{self, File};
use std::hint;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use api::template::{PARAMETER, READY};
use base::{Context, Result};

/// How often it is looked for devices. The guest is frozen between two looks.
const REST: Duration = Duration::from_millis(1);
/// Free memory that is cleared: the kernel hands out first what it got back last.
const WIPED_MIB: usize = 128;
const PIECE_MIB: usize = 16;
const PAGE: usize = 4096;
/// Writing to it makes the kernel look.
const RESCAN: &str = "/sys/bus/pci/rescan";
/// Devices that were found and have their drivers.
pub const DEVICES: &str = "/sys/bus/virtio/devices";

/// Whether this guest is to be one, by the kernel's command line.
pub fn wanted(line: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word == PARAMETER)
}

/// Says that the guest may be frozen; looks for devices until there are more than it was frozen with. Blocks.
pub fn offer() {
    wipe();
    // A console that takes nothing is no reason to end.
    let _ = writeln!(io::stderr(), "{READY}");
    if let Err(e) = look(Path::new(RESCAN), Path::new(DEVICES)) {
        log::error!("{}", e.chain());
    }
}

/// Leaves zeros in free memory, where the boot has left what it does not need any more: pages of zeros are not copied. The kernel
/// clears what it gives us; what it gives back to itself stays clear.
fn wipe() {
    let taken: Vec<Vec<u8>> = (0..(free_mib() / 2).min(WIPED_MIB) / PIECE_MIB)
        .map(|_| {
            let mut piece = vec![0; PIECE_MIB << 20];
            piece
                .iter_mut()
                .step_by(PAGE)
                .for_each(|byte| *hint::black_box(byte) = 0);
            piece
        })
        .collect();
    drop(hint::black_box(taken));
}

/// By the kernel's count; 0 if it does not say.
fn free_mib() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or_default() / 1024
}

fn look(rescan: &Path, devices: &Path) -> Result<()> {
    let count = || fs::read_dir(devices).map_or(0, Iterator::count);
    let own = count();
    let mut options = File::options();
    let file = options
        .write(true)
        .open(rescan)
        .attempt(|| format!("open {}", rescan.display()))?;
    while count() <= own {
        thread::sleep(REST);
        file.write_at(b"1", 0)
            .attempt(|| format!("write {}", rescan.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_word_makes_a_template() {
        assert!(wanted("quiet kata.template kata.debug"));
        assert!(!wanted("quiet kata.templates kata.template=0"));
    }

    #[test]
    fn it_looks_until_there_are_more_devices() {
        let top = tempfile::tempdir().unwrap();
        let (rescan, devices) = (top.path().join("rescan"), top.path().join("devices"));
        fs::create_dir(&devices).unwrap();
        fs::write(devices.join("virtio0"), "").unwrap();
        fs::write(&rescan, "").unwrap();
        let looking = {
            let (rescan, devices) = (rescan.clone(), devices.clone());
            thread::spawn(move || look(&rescan, &devices))
        };
        while fs::read(&rescan).unwrap() != b"1" {
            thread::sleep(REST);
        }
        fs::write(devices.join("virtio1"), "").unwrap();
        looking.join().unwrap().unwrap();
        fs::remove_dir_all(&devices).unwrap();
        assert!(look(&top.path().join("no/rescan"), &devices).is_err());
    }
}
