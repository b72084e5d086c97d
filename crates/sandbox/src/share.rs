// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the guest sees of the host's files: one directory, served by the device process, below which each container's rootfs and
//! volumes are mounted. All mounts are made in the monitor's own mount namespace: they go away with it, whatever happens.
//!
//! ```text
//! <sandbox>/shared/            a mount of its own, shared with the device process's namespace
//!     <container>/rootfs       the bundle's root file system, or what the engine asks to mount
//!     <container>/m<N>         the source of the spec's mount N, if it is a bind mount of a host path
//! ```

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::agent::Attachment;
use api::agent::attachment::Source;
use base::{Context, Error, Kind, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oci::Bundle;
use oci::spec::Mount;

use crate::sys;

/// Name of the share, by which the guest mounts it.
pub const TAG: &str = "kata";
/// Its directory below the sandbox's.
const NAME: &str = "shared";
/// What the guest has of its own: a bind mount from there means the guest's.
const OF_THE_GUEST: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Below those, what holds the host's data all the same.
const OF_THE_HOST: [&str; 1] = ["/dev/shm"];

/// A mount that an engine wants as a container's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// File system type, or `bind`.
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// As for mount(8).
    pub options: Vec<String>,
}

/// Leaves the host's mount namespace: what is mounted from now on is seen by us and our children only, and what the host mounts
/// still appears. To be called while there is one thread.
pub fn isolate() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).attempt(|| "leave the mount namespace".into())?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).attempt(|| "keep mounts to ourselves".into())
}

/// A share between two mount namespaces.
#[derive(Debug)]
pub struct Lifted(OwnedFd);

impl Lifted {
    /// Puts it into the mount namespace in which we are now, for the sandbox in `dir`, where its directory is.
    pub fn settle(self, dir: &Path) -> Result<Share> {
        let path = dir.join(NAME);
        let target = c_path(&path)?;
        let root = Mounted::make(&path, true, || {
            let attached = sys::attach_mount(self.0.as_fd(), &target);
            attached.map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        })?;
        Ok(Share { root })
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context(Kind::Invalid, || "a path has a NUL".into())
}

/// The directory; unmounted and removed on drop.
#[derive(Debug)]
pub struct Share {
    root: Mounted,
}

impl Share {
    /// Makes the share of the sandbox in `dir`.
    pub fn open(dir: &Path) -> Result<Share> {
        let path = dir.join(NAME);
        make_dir(&path)?;
        let none = None::<&str>;
        let root = Mounted::make(&path, true, || mount(Some(&path), &path, none, MsFlags::MS_BIND, none))?;
        mount(none, &path, none, MsFlags::MS_SHARED, none)
            .attempt(|| format!("share mounts below {}", path.display()))?;
        Ok(Share { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root.path
    }

    /// Takes it out of our mount namespace, which we are about to leave. The device process keeps it.
    pub fn lift(self) -> Result<Lifted> {
        let path = c_path(self.path())?;
        let tree = sys::clone_mount(&path).attempt(|| format!("lift the mount {}", self.path().display()))?;
        // The directory stays, and the mount goes with its namespace.
        std::mem::forget(self.root);
        Ok(Lifted(tree))
    }

    /// Puts the rootfs and the bind mounts of a container in place. `rootfs`: what to mount in place of the bundle's own root.
    /// The answer is the guard of the mounts, and where they are in the share.
    pub fn place(&self, id: &str, bundle: &Bundle, rootfs: &[RootMount]) -> Result<(Placed, Vec<Attachment>)> {
        let dir = self.path().join(id);
        make_dir(&dir)?;
        let mut placed = Placed {
            mounts: Vec::new(),
            dir,
        };
        let mut attachments = Vec::new();
        let root = placed.dir.join("rootfs");
        make_dir(&root)?;
        if rootfs.is_empty() {
            placed.bind(bundle.rootfs(), &root, true, false)?;
        }
        for wanted in rootfs {
            placed.root(wanted, &root)?;
        }
        attachments.push(attachment(-1, format!("{id}/rootfs")));
        for (index, mount) in bundle.spec().mounts().iter().flatten().enumerate() {
            let Some(bind) = Bind::of(mount) else { continue };
            let name = volume(index);
            placed
                .volume(&bind, &name)
                .attempt(|| format!("mount {} for {}", bind.source.display(), mount.destination().display()))?;
            let index = i32::try_from(index).context(Kind::Invalid, || "count the mounts".into())?;
            attachments.push(attachment(index, format!("{id}/{name}")));
        }
        Ok((placed, attachments))
    }
}

/// Where a container's files are mounted, in the monitor's mount namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    /// Its rootfs.
    pub rootfs: PathBuf,
    /// Its bind mounts of host paths, each with its destination in the container; in the spec's order.
    pub volumes: Vec<(PathBuf, PathBuf)>,
}

/// What [`Share::place`] has made for a container of the sandbox in `dir`.
pub fn places(dir: &Path, id: &str, bundle: &Bundle) -> Places {
    let dir = dir.join(NAME).join(id);
    let mounts = bundle.spec().mounts().iter().flatten().enumerate();
    let volumes = mounts.filter(|(_, mount)| Bind::of(mount).is_some());
    Places {
        rootfs: dir.join("rootfs"),
        volumes: volumes
            .map(|(index, mount)| (dir.join(volume(index)), mount.destination().clone()))
            .collect(),
    }
}

/// Name of the place of the spec's mount `index`.
fn volume(index: usize) -> String {
    format!("m{index}")
}

fn attachment(mount: i32, path: String) -> Attachment {
    let share = api::agent::Share {
        tag: TAG.to_owned(),
        path,
        ..api::agent::Share::default()
    };
    Attachment {
        mount,
        source: Some(Source::Share(share)),
        ..Attachment::default()
    }
}

/// A bind mount of a path of the host.
#[derive(Debug, PartialEq, Eq)]
struct Bind {
    source: PathBuf,
    recursive: bool,
    read_only: bool,
}

impl Bind {
    /// `None` when it is no bind mount, or binds what the guest has itself.
    fn of(mount: &Mount) -> Option<Bind> {
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |word: &str| options.iter().any(|option| option == word);
        if !(has("bind") || has("rbind") || mount.typ().as_deref() == Some("bind")) {
            return None;
        }
        let source = mount.source().clone()?;
        let below = |dirs: &[&str]| dirs.iter().any(|dir| source.starts_with(dir));
        if below(&OF_THE_GUEST) && !below(&OF_THE_HOST) {
            return None;
        }
        Some(Bind {
            recursive: has("rbind"),
            read_only: options.iter().rev().find_map(|option| match option.as_str() {
                "ro" | "rro" => Some(true),
                "rw" => Some(false),
                _ => None,
            }) == Some(true),
            source,
        })
    }
}

/// The mounts of one container; undone on drop.
#[derive(Debug)]
pub struct Placed {
    mounts: Vec<Mounted>,
    dir: PathBuf,
}

impl Placed {
    fn volume(&mut self, bind: &Bind, name: &str) -> Result<()> {
        let found = fs::metadata(&bind.source).attempt(|| format!("look at {}", bind.source.display()))?;
        let target = self.dir.join(name);
        if found.is_dir() {
            make_dir(&target)?;
        } else {
            File::create_new(&target).attempt(|| format!("create {}", target.display()))?;
        }
        self.bind(&bind.source, &target, bind.recursive, bind.read_only)
    }

    fn bind(&mut self, source: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<()> {
        let flags = if recursive {
            MsFlags::MS_BIND | MsFlags::MS_REC
        } else {
            MsFlags::MS_BIND
        };
        let (none, directory) = (None::<&str>, target.is_dir());
        let made = Mounted::make(target, directory, || mount(Some(source), target, none, flags, none));
        self.mounts.push(made.attempt(|| format!("bind {}", source.display()))?);
        if read_only {
            // A guest that was taken over cannot write there either.
            sys::make_read_only(&c_path(target)?, false).attempt(|| format!("make {} read-only", source.display()))?;
        }
        Ok(())
    }

    fn root(&mut self, wanted: &RootMount, target: &Path) -> Result<()> {
        let options = Options::parse(&wanted.options);
        if options.bind || wanted.kind == "bind" {
            return self.bind(Path::new(&wanted.source), target, true, options.read_only);
        }
        let flags = options.flags
            | if options.read_only {
                MsFlags::MS_RDONLY
            } else {
                MsFlags::empty()
            };
        let data = options.data.join(",");
        let (source, kind) = (wanted.source.as_str(), wanted.kind.as_str());
        let made = Mounted::make(target, true, || {
            mount(Some(source), target, Some(kind), flags, Some(data.as_str()))
        });
        self.mounts
            .push(made.attempt(|| format!("mount the rootfs ({kind}, options {data:?})"))?);
        Ok(())
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        while self.mounts.pop().is_some() {}
        let _ = fs::remove_dir(self.dir.join("rootfs"));
        remove(&self.dir, true);
    }
}

/// Mount options as mount(2) takes them.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    bind: bool,
    read_only: bool,
    flags: MsFlags,
    data: Vec<String>,
}

impl Options {
    fn parse(words: &[String]) -> Options {
        let mut options = Options {
            bind: false,
            read_only: false,
            flags: MsFlags::empty(),
            data: Vec::new(),
        };
        for word in words {
            match word.as_str() {
                "bind" | "rbind" => options.bind = true,
                "ro" => options.read_only = true,
                "rw" | "defaults" => {}
                "nosuid" => options.flags |= MsFlags::MS_NOSUID,
                "nodev" => options.flags |= MsFlags::MS_NODEV,
                "noexec" => options.flags |= MsFlags::MS_NOEXEC,
                "noatime" => options.flags |= MsFlags::MS_NOATIME,
                "relatime" => options.flags |= MsFlags::MS_RELATIME,
                other => options.data.push(other.to_owned()),
            }
        }
        options
    }
}

/// One mount and the directory or file that it is on; both go on drop.
#[derive(Debug)]
struct Mounted {
    path: PathBuf,
    directory: bool,
}

impl Mounted {
    /// Makes a mount on `path`, which was made for it and is removed if that fails.
    fn make(path: &Path, directory: bool, how: impl FnOnce() -> nix::Result<()>) -> Result<Mounted> {
        if let Err(e) = how() {
            remove(path, directory);
            return Err(e).attempt(|| format!("mount on {}", path.display()));
        }
        Ok(Mounted {
            path: path.to_owned(),
            directory,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match umount2(&self.path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Whoever deleted the sandbox may have removed the directory, which lets go of the mount.
            Err(nix::Error::ENOENT) => {}
            // Never what is below a mount that stays.
            Err(e) => log::warn!("unmount {}: {e}", self.path.display()),
            Ok(()) => remove(&self.path, self.directory),
        }
    }
}

/// Removes an empty directory or an empty file; with content it stays and is told.
fn remove(path: &Path, directory: bool) {
    let removed = if directory {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => log::warn!("remove {}: {e}", path.display()),
        _ => {}
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::new(Kind::Exists, format!("{} exists already", path.display())))
        }
        other => other.attempt(|| format!("create directory {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(json: &str) -> Option<Bind> {
        Bind::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn only_binds_of_host_paths_are_placed() {
        let volume = bind(r#"{"destination":"/d","source":"/srv/x","options":["rbind","ro"]}"#).unwrap();
        assert_eq!(
            volume,
            Bind {
                source: "/srv/x".into(),
                recursive: true,
                read_only: true
            }
        );
        let typed = bind(r#"{"destination":"/d","type":"bind","source":"/x","options":["ro","rw"]}"#).unwrap();
        assert!(!typed.recursive && !typed.read_only);
        assert!(bind(r#"{"destination":"/dev/shm","type":"bind","source":"/dev/shm/x"}"#).is_some());
        for guest in ["/dev/fuse", "/sys", "/proc/x"] {
            let json = format!(r#"{{"destination":"/d","type":"bind","source":"{guest}"}}"#);
            assert!(bind(&json).is_none(), "{guest}");
        }
        assert!(bind(r#"{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}"#).is_none());
    }

    #[test]
    fn words_become_flags_and_the_rest_is_the_file_systems() {
        let words = ["nodev", "ro", "lowerdir=/a:/b", "relatime"].map(str::to_owned);
        let options = Options::parse(&words);
        assert!(options.read_only && !options.bind);
        assert_eq!(options.flags, MsFlags::MS_NODEV | MsFlags::MS_RELATIME);
        assert_eq!(options.data, ["lowerdir=/a:/b"]);
    }

    #[test]
    fn what_was_placed_is_gone_afterwards() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        // A thread of its own: its mount namespace ends with it.
        let done = std::thread::spawn(|| {
            isolate().unwrap();
            let top = tempfile::tempdir().unwrap();
            let bundle_dir = top.path().join("bundle");
            let (volume, file) = (top.path().join("volume"), top.path().join("file"));
            fs::create_dir_all(bundle_dir.join("rootfs/bin")).unwrap();
            fs::create_dir(&volume).unwrap();
            fs::write(&file, "single").unwrap();
            let json = serde_json::json!({
                "ociVersion": "1.0.2", "root": {"path": "rootfs"},
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ro"]},
                    {"destination": "/f", "type": "bind", "source": file, "options": ["bind"]}
                ]
            });
            let bundle = Bundle::parse(bundle_dir, serde_json::to_vec(&json).unwrap()).unwrap();
            let share = Share::open(top.path()).unwrap();
            let (placed, attachments) = share.place("c1", &bundle, &[]).unwrap();
            let indices: Vec<i32> = attachments.iter().map(|attachment| attachment.mount).collect();
            assert_eq!(indices, [-1, 1, 2]);
            let at = share.path().join("c1");
            let places = places(top.path(), "c1", &bundle);
            assert_eq!(places.rootfs, at.join("rootfs"));
            assert_eq!(
                places.volumes,
                [(at.join("m1"), "/v".into()), (at.join("m2"), "/f".into())]
            );
            assert!(at.join("rootfs/bin").is_dir());
            assert_eq!(fs::read_to_string(at.join("m2")).unwrap(), "single");
            assert!(fs::write(at.join("m1/x"), "").is_err(), "read-only for us, too");
            assert_eq!(share.place("c1", &bundle, &[]).unwrap_err().kind(), Kind::Exists);
            drop(placed);
            assert!(!at.exists());
            let tmpfs = RootMount {
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                options: vec!["size=64k".into(), "nodev".into()],
            };
            let (placed, _) = share.place("c2", &bundle, &[tmpfs]).unwrap();
            fs::write(share.path().join("c2/rootfs/x"), "").unwrap();
            drop(placed);
            drop(share);
            assert!(!top.path().join(NAME).exists());
            assert!(volume.exists() && file.exists());
        });
        done.join().unwrap();
    }
}
