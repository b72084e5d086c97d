// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A root file system in layers that are behind each other on one block device: each becomes a partition, without a table on the device,
//! and an overlay lays them one above the other.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::agent::{Layers, Share};
use base::{Context, Error, Kind, Result};
use guest::FileSystem;

use crate::share::Shares;
use crate::{modules, sys};

/// Mounts the layers on `device` below `path`, and the overlay of them last. Errors: nothing is mounted then.
pub fn mount(wanted: &Layers, device: &Path, path: &Path, shares: &Shares) -> Result<Vec<FileSystem>> {
    modules::load_later(&[&wanted.type_])?;
    let read_only = ["ro".to_owned()];
    let mut mounted = Vec::new();
    for (index, device) in parts(device, &wanted.sizes)?.iter().enumerate() {
        let place = path.join(index.to_string());
        mounted.push(FileSystem::mount(&wanted.type_, device, &read_only, &place)?);
    }
    let lower: Vec<&Path> = mounted.iter().map(FileSystem::path).collect();
    let place = |share: Option<&Share>| share.map(|share| shares.find(&share.tag, &share.path)).transpose();
    let own = match (place(wanted.upper.as_ref())?, place(wanted.work.as_ref())?) {
        (Some(upper), Some(work)) => Some((upper, work)),
        (None, None) => None,
        _ => {
            return Err(Error::new(
                Kind::Invalid,
                "an overlay needs both places for what is written, or none",
            ));
        }
    };
    let overlay = FileSystem::overlay(&lower, own, &wanted.options, &path.join("root"))?;
    mounted.push(overlay);
    Ok(mounted)
}

/// Where each part of the device is.
fn parts(device: &Path, sizes: &[u64]) -> Result<Vec<PathBuf>> {
    if sizes.len() < 2 {
        return Ok(vec![device.to_owned()]);
    }
    let open = File::open(device).attempt(|| format!("open {}", device.display()))?;
    let ends = sizes.iter().scan(0_u64, |end, size| {
        *end = end.checked_add(*size)?;
        Some(*end)
    });
    let made = (1..).zip(sizes.iter().zip(ends)).map(|(number, (size, end))| {
        let what = || format!("make partition {number} of {}", device.display());
        sys::add_partition(open.as_fd(), number, end - size, *size).attempt(what)?;
        Ok(partition(device, number))
    });
    made.collect()
}

/// The kernel's name of it.
fn partition(device: &Path, number: i32) -> PathBuf {
    let name = device.display().to_string();
    let between = if name.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    PathBuf::from(format!("{name}{between}{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_the_names_of_their_disk() {
        assert_eq!(partition(Path::new("/dev/vda"), 12), Path::new("/dev/vda12"));
        assert_eq!(partition(Path::new("/dev/loop0"), 1), Path::new("/dev/loop0p1"));
    }

    #[test]
    fn one_layer_is_the_device() {
        let device = Path::new("/dev/vda");
        assert_eq!(parts(device, &[7]).unwrap(), [device]);
        let missing = parts(Path::new("/none"), &[4096, 4096]).unwrap_err().chain();
        assert!(missing.starts_with("open /none"), "{missing}");
    }
}
