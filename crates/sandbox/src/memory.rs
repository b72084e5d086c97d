// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is no file of the host's, though a spec names one: memory of the guest's own, as a file system.

use std::os::fd::OwnedFd;
use std::path::Path;

use api::agent::Memory;
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use oci::spec::Mount;

/// Memory by name.
pub const SHM: &str = "/dev/shm";
/// Bytes of that of a pod whose engine prepares none: as many as engines give.
const HELD: u64 = 64 << 20;
/// Bytes of a rootfs that holds nothing but mount points.
const EMPTY: u64 = 64 << 10;

/// May be [`prepared`].
pub fn by_name(mount: &Mount) -> bool {
    let place = Path::new(SHM);
    let source = mount.source().as_deref().filter(|source| *source != place);
    mount.destination() == place && source.and_then(Path::file_name) == place.file_name()
}

/// The memory that an engine has prepared as `/dev/shm` of one or several containers: a tmpfs of the host, by all engines' custom in a
/// directory `shm` of its own, at which nobody on the host looks. The guest takes its own in place of it: what is mapped through a share is
/// not seen by who maps it through another mount of the same directory.
pub fn prepared(mount: &Mount, tree: &OwnedFd) -> Option<Memory> {
    let found = fstatfs(tree).ok()?;
    if !by_name(mount) || found.filesystem_type() != TMPFS_MAGIC {
        return None;
    }
    let source = fstat(tree).ok()?;
    let block = u64::try_from(found.block_size()).ok()?;
    Some(Memory {
        name: format!("{}-{}", source.st_dev, source.st_ino),
        bytes: found.blocks().saturating_mul(block),
        ..Memory::default()
    })
}

/// That of a pod whose engine prepares none: all that it has is a directory `shm` in one that is named after its `holder`.
pub fn held(mount: &Mount, holder: &str) -> Option<Memory> {
    let directory = mount.source().as_deref()?.parent()?;
    (by_name(mount) && directory.file_name()? == holder).then(|| Memory {
        name: format!("shm-{holder}"),
        bytes: HELD,
        ..Memory::default()
    })
}

/// A rootfs for a container that needs none.
pub fn root(id: &str) -> Memory {
    Memory {
        name: format!("root-{id}"),
        bytes: EMPTY,
        ..Memory::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_memory_is_told_from_what_users_bind() {
        let mount = |destination: &str, source: &str| -> Mount {
            serde_json::from_value(json!({ "destination": destination, "type": "bind", "source": source })).unwrap()
        };
        let found = held(&mount(SHM, "/run/b/p1/shm"), "p1").unwrap();
        assert_eq!((found.name.as_str(), found.bytes), ("shm-p1", HELD));
        for (destination, source) in [
            (SHM, "/run/b/p2/shm"),
            (SHM, "/run/b/p1/data"),
            ("/data", "/run/b/p1/shm"),
            (SHM, SHM),
        ] {
            assert_eq!(
                held(&mount(destination, source), "p1"),
                None,
                "{source} at {destination}"
            );
        }
    }
}
