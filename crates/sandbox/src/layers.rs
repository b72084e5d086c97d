// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Root file systems in layers, each a file with an EROFS in it (containerd's erofs snapshotter): the machine gets the files as one block
//! device, and the guest mounts them and lays one above the other.
//!
//! The snapshotter mounts each layer itself, and gives the places of these mounts: the file is beside.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::agent::Layers as Told;
use base::{Context, Result};
use machine::DiskSpec;

use crate::share::{self, RootMount};

/// A layer's file, beside the place where the snapshotter has it mounted.
const BLOB: &str = "layer.erofs";
/// The snapshotter's mark of its own directories.
const MARK: &str = ".erofslayer";
const KIND: &str = "erofs";

/// See the module.
#[derive(Debug)]
pub struct Layers {
    /// The topmost first.
    blobs: Vec<File>,
    sizes: Vec<u64>,
    options: Vec<String>,
    own: Option<Own>,
}

/// Where the container's own files are: names in a directory of the host, not all of which is the guest's.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    dir: PathBuf,
    upper: String,
    work: String,
}

/// An overlay's options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overlay {
    lower: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    rest: Vec<String>,
}

impl Overlay {
    /// None if there are options that are not the overlay's alone.
    fn parse(options: &[String]) -> Option<Overlay> {
        let mut all = Overlay::default();
        for option in options {
            match option.split_once('=') {
                // A colon that belongs to a path is escaped: no snapshotter has such.
                Some(("lowerdir", dirs)) if !dirs.contains('\\') => {
                    all.lower = dirs.split(':').map(PathBuf::from).collect();
                }
                Some(("upperdir", dir)) => all.upper = Some(dir.into()),
                Some(("workdir", dir)) => all.work = Some(dir.into()),
                Some(("index" | "metacopy" | "redirect_dir" | "xino", _)) => all.rest.push(option.clone()),
                None if ["userxattr", "volatile"].contains(&option.as_str()) => all.rest.push(option.clone()),
                _ => return None,
            }
        }
        Some(all)
    }

    /// None if the two places are not beside each other; `Some(None)` if there is none.
    fn own(&self) -> Option<Option<Own>> {
        let (upper, work) = match (&self.upper, &self.work) {
            (None, None) => return Some(None),
            (upper, work) => (upper.as_ref()?, work.as_ref()?),
        };
        let dir = upper.parent().filter(|dir| work.parent() == Some(dir))?;
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        Some(Some(Own {
            dir: dir.to_owned(),
            upper: name(upper)?,
            work: name(work)?,
        }))
    }
}

impl Layers {
    /// What `mounts` are, if that is an overlay of such layers. Errors: one of them cannot be opened.
    pub fn find(mounts: &[RootMount]) -> Result<Option<Layers>> {
        let [mount] = mounts else { return Ok(None) };
        let overlay = (mount.kind == "overlay")
            .then(|| Overlay::parse(&mount.options))
            .flatten();
        let Some((overlay, own)) = overlay.and_then(|overlay| overlay.own().map(|own| (overlay, own))) else {
            return Ok(None);
        };
        let dirs: Option<Vec<&Path>> = overlay.lower.iter().map(|lower| lower.parent()).collect();
        let marked = |dir: &&Path| dir.is_absolute() && dir.join(MARK).exists() && dir.join(BLOB).exists();
        let Some(dirs) = dirs.filter(|dirs| !dirs.is_empty() && dirs.iter().all(marked)) else {
            return Ok(None);
        };
        let (mut blobs, mut sizes) = (Vec::new(), Vec::new());
        for dir in dirs {
            let path = dir.join(BLOB);
            let what = || format!("open the layer {}", path.display());
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let blob = OpenOptions::new().read(true).custom_flags(flags).open(&path);
            let blob = blob.attempt(what)?;
            let found = blob.metadata().attempt(what)?;
            if !found.is_file() {
                return Ok(None);
            }
            sizes.push(found.len().next_multiple_of(DiskSpec::ALIGNMENT));
            blobs.push(blob);
        }
        Ok(Some(Layers {
            blobs,
            sizes,
            options: overlay.rest,
            own,
        }))
    }

    /// The directory that holds the container's own files.
    pub fn own(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.dir.as_path())
    }

    /// With their device's name in the machine: for the machine, and for the guest. `id`: whose they are.
    pub fn named(self, serial: String, id: &str) -> (DiskSpec, api::agent::Disk, Told) {
        let disk = api::agent::Disk {
            serial: serial.clone(),
            ..api::agent::Disk::default()
        };
        let (upper, work) = self
            .own
            .map(|own| (share::of_layer(id, &own.upper), share::of_layer(id, &own.work)))
            .unzip();
        let told = Told {
            serial: serial.clone(),
            type_: KIND.to_owned(),
            sizes: self.sizes,
            options: self.options,
            upper: upper.into(),
            work: work.into(),
            ..Told::default()
        };
        let spec = DiskSpec {
            serial,
            parts: self
                .blobs
                .into_iter()
                .map(|blob| Arc::new(OwnedFd::from(blob)))
                .collect(),
            read_only: true,
        };
        (spec, disk, told)
    }
}

/// Whether `mounts` would have the host's kernel read a file with such a layer, which may hold anything.
pub fn is_blob(mounts: &[RootMount]) -> bool {
    mounts.iter().any(|mount| mount.kind == KIND)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mount(options: &[String]) -> [RootMount; 1] {
        [RootMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options.to_vec(),
        }]
    }

    /// A snapshotter's directory with layers of these sizes.
    fn layers(dir: &Path, sizes: &[usize]) -> String {
        let mut lower = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let layer = dir.join(index.to_string());
            fs::create_dir_all(layer.join("fs")).unwrap();
            fs::write(layer.join(MARK), "").unwrap();
            fs::write(layer.join(BLOB), vec![0; *size]).unwrap();
            lower.push(layer.join("fs").display().to_string());
        }
        format!("lowerdir={}", lower.join(":"))
    }

    #[test]
    fn an_overlay_of_layers_is_the_machines() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), &[4096, 5000]);
        let own = dir.path().join("9").display().to_string();
        let options = [
            "index=off".into(),
            format!("workdir={own}/work"),
            format!("upperdir={own}/fs"),
            lower.clone(),
        ];
        let found = Layers::find(&mount(&options)).unwrap().unwrap();
        assert_eq!(found.own(), Some(Path::new(&own)));
        let (spec, disk, told) = found.named("kata-1".into(), "c");
        assert!(spec.read_only && spec.parts.len() == 2);
        assert_eq!((disk.serial.as_str(), told.serial.as_str()), ("kata-1", "kata-1"));
        assert_eq!((told.type_.as_str(), told.sizes), ("erofs", vec![4096, 8192]));
        assert_eq!(told.options, ["index=off"]);
        let path = |share: Option<&api::agent::Share>| share.unwrap().path.clone();
        assert_eq!(path(told.upper.as_ref()), "c/layer/fs");
        assert_eq!(path(told.work.as_ref()), "c/layer/work");
        let read_only = Layers::find(&mount(&[lower])).unwrap().unwrap();
        assert!(read_only.own().is_none() && read_only.named("kata-1".into(), "c").2.upper.is_none());
    }

    #[test]
    fn what_is_another_overlay_is_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), &[1, 1]);
        let place = |name: &str| format!("{}/{name}", dir.path().display());
        for options in [
            vec![],
            vec![lower.clone(), "ro".into()],
            vec![lower.clone(), format!("upperdir={}", place("9/fs"))],
            vec![
                lower.clone(),
                format!("upperdir={}", place("9/fs")),
                format!("workdir={}", place("8/work")),
            ],
            vec![format!("{lower}:{}", place("2/fs"))],
            vec!["lowerdir=fs".into()],
        ] {
            assert!(Layers::find(&mount(&options)).unwrap().is_none(), "{options:?}");
        }
        assert!(Layers::find(&[]).unwrap().is_none());
        fs::remove_file(dir.path().join("1").join(MARK)).unwrap();
        assert!(
            Layers::find(&mount(&[lower])).unwrap().is_none(),
            "it is not the snapshotter's"
        );
    }

    #[test]
    fn a_layer_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), &[1]);
        let blob = dir.path().join("0").join(BLOB);
        fs::remove_file(&blob).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &blob).unwrap();
        let error = Layers::find(&mount(&[lower])).unwrap_err().chain();
        assert!(error.contains("layer.erofs"), "{error}");
    }
}
