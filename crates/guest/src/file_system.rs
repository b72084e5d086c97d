// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A file system that is mounted for containers beside the guest's own: on a block device of the machine, or of memory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mount::Options;
use crate::tree::Tree;

/// What mount(2) takes of options.
const PAGE: usize = 4096;

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

    /// Mounts an overlay of `lower`, the topmost first, at `path`, which does not exist; what is written goes to the first of `own`, whose second
    /// is for the overlay itself. Errors: `Unsupported` when there are more layers than the kernel takes.
    pub fn overlay(
        lower: &[&Path],
        own: Option<(PathBuf, PathBuf)>,
        options: &[String],
        path: &Path,
    ) -> Result<FileSystem> {
        let what = || format!("mount an overlay of {} layers on {}", lower.len(), path.display());
        let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
        let mut data = vec![format!("lowerdir={}", lower.join(":"))];
        if let Some((upper, work)) = own {
            data.push(format!("upperdir={}", upper.display()));
            data.push(format!("workdir={}", work.display()));
        }
        let data = [&data, options].concat().join(",");
        // Not by fsconfig(2), which takes 255 bytes of an option.
        if data.len() >= PAGE {
            let why = format!(
                "its options are {} bytes, of which the kernel takes {}",
                data.len(),
                PAGE - 1
            );
            return Err(Error::new(Kind::Unsupported, what()).because(why));
        }
        fs::create_dir_all(path).attempt(what)?;
        let mounted = FileSystem { path: path.to_owned() };
        mount(
            Some("overlay"),
            path,
            Some("overlay"),
            MsFlags::empty(),
            Some(data.as_str()),
        )
        .attempt(what)?;
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

    fn overlay(top: &Path) {
        let place = |name: &str| top.join(name);
        let all = FileSystem::mount("tmpfs", Path::new("none"), &[], &place("all")).unwrap();
        let dirs = ["above", "below", "upper", "work"].map(|name| all.path().join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let [above, below, upper, work] = dirs;
        fs::write(above.join("f"), "above").unwrap();
        fs::write(below.join("f"), "below").unwrap();
        let lower = [above.as_path(), below.as_path()];
        let own = Some((upper.clone(), work));
        let mounted = FileSystem::overlay(&lower, own, &["index=off".to_owned()], &place("root")).unwrap();
        assert_eq!(fs::read_to_string(mounted.path().join("f")).unwrap(), "above");
        fs::write(mounted.path().join("g"), "").unwrap();
        assert!(upper.join("g").exists());
        drop(mounted);
        let read_only = FileSystem::overlay(&lower, None, &[], &place("root")).unwrap();
        let refused = fs::write(read_only.path().join("g"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let many = vec![above.as_path(); PAGE];
        let error = FileSystem::overlay(&many, None, &[], &place("many")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error:?}");
    }

    #[test]
    fn it_is_there_as_long_as_somebody_has_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
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
            overlay(top.path());
        });
        thread.join().unwrap();
    }
}
