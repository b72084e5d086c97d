// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The lab's initramfs: busybox, two scripts and the modules in the order of loading.

use std::io::Write;

use base::{Context, Error, Kind, Result};
use cpio::newc::{Builder, trailer};
use guest_image::modules::Module;

use crate::hidden;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// First program of the lab.
pub const INIT: &[u8] = include_bytes!("init");
/// What it becomes among the host's files.
pub const ENTER: &[u8] = include_bytes!("enter");

/// The archive.
pub fn pack(busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let path = |module: &Module| format!("lib/{}.ko", module.name);
    let list: String = modules.iter().map(|module| format!("/{}\n", path(module))).collect();
    let mut archive = Archive(Vec::new());
    for directory in ["bin", "dev", "lib"] {
        archive.add(directory, DIRECTORY, &[])?;
    }
    archive.add("dev/console", CONSOLE, &[])?;
    archive.add("bin/busybox", PROGRAM, busybox)?;
    archive.add("init", PROGRAM, INIT)?;
    archive.add("enter", FILE, ENTER)?;
    archive.add("hidden", FILE, hidden::list().as_bytes())?;
    archive.add("modules", FILE, list.as_bytes())?;
    for module in modules {
        archive.add(&path(module), FILE, &module.content)?;
    }
    trailer(&mut archive.0).attempt(|| "end the initramfs".into())?;
    Ok(archive.0)
}

struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| Error::new(Kind::Invalid, "a file of 4 GiB or more"))?;
        // Major and minor number are those of /dev/console, the only device here.
        let builder = Builder::new(path).mode(mode).nlink(1).rdev_major(5).rdev_minor(1);
        let mut writer = builder.write(&mut self.0, size);
        let written = writer.write_all(content);
        let finished = written.and_then(|()| writer.finish().map(drop));
        finished.attempt(|| format!("write /{path} into the initramfs"))
    }
}
