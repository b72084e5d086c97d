// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The root file system of a container where the machine gets it as a block device, and not by the share.

use std::path::Path;

use api::agent::attachment::Source;
use base::Result;
use machine::DiskSpec;

use crate::disk;
use crate::layers::Layers;
use crate::share::RootMount;

/// See the module.
#[derive(Debug)]
pub enum Root {
    /// One file system.
    Whole(disk::Root),
    /// Several.
    Layers(Layers),
}

impl Root {
    /// What `mounts` are, if that is such. Errors: it cannot be opened.
    pub fn find(mounts: &[RootMount]) -> Result<Option<Root>> {
        if let Some(layers) = Layers::find(mounts)? {
            return Ok(Some(Root::Layers(layers)));
        }
        Ok(disk::Root::find(mounts)?.map(Root::Whole))
    }

    /// The directory of the host in which the container writes all the same.
    pub fn own(&self) -> Option<&Path> {
        match self {
            Root::Whole(_) => None,
            Root::Layers(layers) => layers.own(),
        }
    }

    /// With its name in the machine: for the machine, and for the guest, which is to mount it for the container `id`.
    pub fn named(self, serial: String, id: &str) -> (DiskSpec, api::agent::Disk, Source) {
        match self {
            Root::Whole(whole) => {
                let (spec, disk, mounted) = whole.named(serial);
                (spec, disk, Source::FileSystem(mounted))
            }
            Root::Layers(layers) => {
                let (spec, disk, mounted) = layers.named(serial, id);
                (spec, disk, Source::Layers(mounted))
            }
        }
    }
}
