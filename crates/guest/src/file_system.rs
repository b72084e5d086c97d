// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A file system that is mounted for containers beside the guest's own: on a block device of the machine, or of memory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::mount::{MntFlags, umount2};

use crate::mount::Options;
use crate::tree::Tree;

/// Unmounted on drop: the device is free when nobody else has it mounted, either.
#[derive(Debug)]
pub struct FileSystem {
    path: PathBuf,
}

impl FileSystem {
    /// Mounts the file system of type `kind` on `device` at `path`, which does not exist. Options as of mount(8). Errors: `Unsupported`
    /// when the kernel does not know the type.
    pub fn mount(kind: &str, device: &Path, options: &[String], path: &Path) -> Result<FileSystem> {
        let what = || format!("mount {} on {}", device.display(), path.display());
        let options = Options::parse(options)?;
        let mut data = options.data;
        // Else a device that cannot be written is refused.
        if options.set & libc::MOUNT_ATTR_RDONLY != 0 {
            data.push("ro".to_owned());
        }
        let source = device.to_str();
        let source = source.ok_or_else(|| Error::new(Kind::Invalid, what()).because("its path is no UTF-8"))?;
        let tree = Tree::new(kind, source, &data, options.set).attempt(what)?;
        fs::create_dir_all(path).attempt(what)?;
        let mounted = FileSystem { path: path.to_owned() };
        let place = File::open(path).attempt(what)?;
        tree.attach(place.as_fd()).attempt(what)?;
        Ok(mounted)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        match umount2(&self.path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It came to nothing.
            Err(nix::Error::EINVAL) => {}
            Err(e) => log::warn!("unmount {}: {e}", self.path.display()),
            Ok(()) => {}
        }
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn it_is_there_as_long_as_somebody_has_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(none, "/", none, private, none).unwrap();
            let top = tempfile::tempdir().unwrap();
            let path = top.path().join("0");
            let options = ["nodev", "size=64k"].map(str::to_owned);
            let mounted = FileSystem::mount("tmpfs", Path::new("none"), &options, &path).unwrap();
            fs::write(mounted.path().join("f"), "").unwrap();
            drop(mounted);
            assert!(!path.exists());
            let unknown = FileSystem::mount("nofs", Path::new("none"), &[], &path).unwrap_err();
            assert_eq!(unknown.kind(), Kind::Unsupported, "{unknown:?}");
            let wrong = FileSystem::mount("tmpfs", Path::new("none"), &["nooption".to_owned()], &path);
            assert!(wrong.unwrap_err().chain().contains("nooption"));
            assert!(!path.exists());
        });
        thread.join().unwrap();
    }
}
