// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where QEMU and its firmware are on this host.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::{Context, Error, Kind, Result};

/// The program's name.
pub const NAME: &str = "qemu-system-x86_64";
/// Packages that have it, for people.
pub const PACKAGES: &str = "apt-get install --no-install-recommends qemu-system-x86 (Debian, Ubuntu), dnf install \
                            qemu-system-x86-core (Fedora), zypper install qemu-x86 (openSUSE)";
/// The firmware that starts the kernel; part of QEMU's data files.
pub const FIRMWARE: &str = "qboot.rom";

/// Looked at after `PATH`, which engines often give us empty.
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];
const FIRMWARE_FOLDERS: [&str; 4] = [
    "/usr/share/qemu",
    "/usr/local/share/qemu",
    "/usr/share/qemu-kvm",
    "/usr/share/seabios",
];

/// A version as QEMU prints it; the first two numbers name a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

/// The oldest that our command line is tried with.
pub const OLDEST: Version = Version { major: 7, minor: 2 };

/// Looks for QEMU. Errors: `NotFound` with the packages that have it.
pub fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(&path).ok_or_else(|| {
        let why = format!("install it: {PACKAGES}");
        Error::new(Kind::NotFound, format!("{NAME} is not on this host")).because(why)
    })
}

fn find_in(path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        let found = fs::metadata(file);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(NAME))
        .find(executable)
}

/// Where the firmware is, if it is where packages put it; QEMU looks by itself.
pub fn firmware() -> Option<PathBuf> {
    FIRMWARE_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(FIRMWARE))
        .find(|file| file.exists())
}

/// Asks a QEMU for its version; takes some 15 ms. Errors: `Invalid` when its answer is not QEMU's.
pub fn version(binary: &Path) -> Result<Version> {
    let what = || format!("ask {} for its version", binary.display());
    let asked = Command::new(binary).arg("--version").stdin(Stdio::null()).output();
    let output = asked.attempt(what)?;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| Error::new(Kind::Invalid, what()))
}

/// From `QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)`.
fn parse_version(text: &str) -> Option<Version> {
    let (_, rest) = text.lines().next()?.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version {
        major: numbers.next()?.ok()?,
        minor: numbers.next()?.ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_read() {
        let read = |text| parse_version(text).map(|version| (version.major, version.minor));
        assert_eq!(
            read("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright"),
            Some((7, 2))
        );
        assert_eq!(
            read("QEMU emulator version 11.0.0 (qemu-11.0.0-1.fc45)\n"),
            Some((11, 0))
        );
        assert_eq!(read("QEMU emulator version 10.1.0-rc2"), Some((10, 1)));
        assert_eq!(read("bash: no such file"), None);
        assert_eq!(read(""), None);
        assert!(parse_version("version 6.9").unwrap() < OLDEST);
    }

    #[test]
    fn only_an_executable_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir_all(one.join(NAME)).unwrap();
        fs::create_dir(&two).unwrap();
        let file = two.join(NAME);
        fs::write(&file, b"").unwrap();
        let path = env::join_paths([&one, &two]).unwrap();
        assert_ne!(find_in(&path), Some(file.clone()), "not executable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in(&path), Some(file));
    }
}
