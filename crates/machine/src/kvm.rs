// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Whether the processor's virtualization can be used through `/dev/kvm`.
//!
//! A device that opens is not enough: a hypervisor below us may offer a paravirtual KVM without `vmx` or `svm`, on which a
//! stock kernel is interpreted instruction by instruction and never comes up.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use crate::sys;

/// Where KVM lives.
pub const DEVICE: &str = "/dev/kvm";

/// What was found out about KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kvm {
    /// A guest can be run on it.
    pub usable: bool,
    /// Why, or why not, for people.
    pub reason: String,
    /// Guests could have KVM themselves.
    pub nested: bool,
}

/// Who may open a device, by its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    All,
    /// The group with this id.
    Group(u32),
    /// Nobody but root.
    Root,
}

/// Looks at this host.
pub fn probe() -> Kvm {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = extension(&cpuinfo);
    let (usable, reason) = match (open(), hardware) {
        (Err(why), _) => (false, why),
        (Ok(_), None) => {
            let why = "the processor has neither vmx nor svm: no hardware virtualization is behind it";
            (false, format!("{DEVICE} opens, but {why}"))
        }
        (Ok(kvm), Some(name)) => match create(&kvm) {
            Ok(()) => (true, format!("{DEVICE} works, the processor has {name}")),
            Err(why) => (false, why),
        },
    };
    Kvm {
        usable,
        reason,
        nested: nested(),
    }
}

/// Who may open `/dev/kvm`.
pub fn access() -> Access {
    fs::metadata(DEVICE).map_or(Access::Root, |found| access_by(found.mode(), found.gid()))
}

fn access_by(mode: u32, group: u32) -> Access {
    if mode & 0o006 == 0o006 {
        Access::All
    } else if mode & 0o060 == 0o060 {
        Access::Group(group)
    } else {
        Access::Root
    }
}

fn open() -> Result<File, String> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE);
    let kvm: File = file.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {DEVICE}"),
        _ => format!("{DEVICE} does not open: {e}"),
    })?;
    match sys::kvm_api_version(&kvm) {
        Ok(12) => {}
        Ok(other) => return Err(format!("{DEVICE} speaks version {other}, not 12")),
        Err(e) => return Err(format!("{DEVICE} does not tell its version: {e}")),
    }
    Ok(kvm)
}

/// Creates an empty VM, so that a device without a working module behind it is told apart. Takes up to 50 ms.
fn create(kvm: &File) -> Result<(), String> {
    let created = sys::kvm_create_vm(kvm).map(drop);
    created.map_err(|e| format!("{DEVICE} opens, but creates no machine: {e}"))
}

/// The name of the processor's virtualization extension in `/proc/cpuinfo`.
fn extension(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    ["vmx", "svm"].into_iter().find(|flag| has(flag))
}

fn nested() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        let path = Path::new("/sys/module").join(module).join("parameters/nested");
        fs::read_to_string(path).is_ok_and(|text| matches!(text.trim(), "1" | "Y" | "y"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_a_whole_word_of_the_flags() {
        assert_eq!(extension("model\t: x\nflags\t\t: fpu svm sse\n"), Some("svm"));
        assert_eq!(extension("flags\t\t: fpu vmx sse\nflags\t\t: fpu\n"), Some("vmx"));
        assert_eq!(extension("flags\t\t: fpu svm_lock vmxoff\n"), None);
        assert_eq!(extension("Features\t: fp asimd\n"), None);
    }

    #[test]
    fn a_mode_says_who_may_open_the_device() {
        assert_eq!(access_by(0o020_666, 0), Access::All);
        assert_eq!(access_by(0o020_660, 106), Access::Group(106));
        assert_eq!(access_by(0o020_600, 0), Access::Root);
    }

    #[test]
    fn a_probe_always_says_why() {
        let kvm = probe();
        assert!(kvm.reason.contains(DEVICE), "{kvm:?}");
    }
}
