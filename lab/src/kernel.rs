// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The lab's kernel: an installed one that has all the modules, else the distribution's general one by apt. The kernel of our
//! guests will not do: it is made for clouds, which have no 9p.

use std::path::Path;

use base::{Context, Result};
use guest_image::kernel::Kernel;
use guest_image::modules::Module;
use guest_image::{Progress, Source, apt, bzimage};

/// Debian's name for the kernel that has everything.
const PACKAGE: &str = "linux-image-amd64";
/// What the lab cannot do without.
const NEEDED: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "kvm_amd",
    "vhost_net",
    "vhost_vsock",
    "vmgenid",
];
/// What some commands use.
const USEFUL: [&str; 8] = [
    "fuse",
    "loop",
    "tun",
    "veth",
    "bridge",
    "crc32c_generic",
    "nf_tables",
    "vsock_loopback",
];

/// An ELF kernel and its modules in the order of loading.
#[derive(Debug)]
pub struct Bootable {
    pub vmlinux: Vec<u8>,
    pub modules: Vec<Module>,
}

/// Looks for a kernel; packages are kept in `cache`.
pub fn find(cache: &Path) -> Result<Bootable> {
    for source in Source::installed(Path::new("/")) {
        // Whatever is wrong with an installed one, there is another.
        if let Ok(bootable) = load(&source) {
            return Ok(bootable);
        }
    }
    load(&Source::Packages(apt::fetch(PACKAGE, None, cache, &Steps)?))
}

fn load(source: &Source) -> Result<Bootable> {
    let kernel: Kernel = source.load()?;
    let mut wanted = NEEDED.to_vec();
    wanted.extend(USEFUL.iter().filter(|name| kernel.modules.resolve(&[**name]).is_ok()));
    Ok(Bootable {
        modules: kernel.modules.resolve(&wanted)?,
        vmlinux: bzimage::vmlinux(&kernel.image).attempt(|| format!("use kernel {}", kernel.release))?,
    })
}

struct Steps;

impl Progress for Steps {
    fn step(&self, what: &str) -> Result<()> {
        eprintln!("lab: {what}");
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
