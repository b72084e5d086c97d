// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the guest sees of the host's files: one directory, served by the device process, below which each container's rootfs and
//! volumes are mounted. All mounts are made in the monitor's own mount namespace: they go away with it, whatever happens.
//!
//! ```text
//! <sandbox>/shared/            a mount of its own, shared with the device process's namespace
//!     <container>/rootfs       the bundle's root file system, or what the engine asks to mount
//!     <container>/layer        a directory with the container's own files, where its rootfs is in layers
//!     <container>/m<N>         the source of the spec's mount N, if it is a bind mount of a host path
//! ```

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::agent::Attachment;
use api::agent::attachment::Source;
use base::{Context, Error, Kind, Result};
use devices::fixed::NAME as LAYER;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, fstat};
use oci::Bundle;
use oci::spec::Mount;

use crate::disk::is_block_device;
use crate::loop_device::Loop;
use crate::memory;
use crate::origin::Origin;
use crate::sys;

/// Name of the share, by which the guest mounts it.
pub const TAG: &str = api::template::SHARE;
/// Its directory below the sandbox's.
const NAME: &str = "shared";
/// What the guest has of its own: a bind mount from there means the guest's.
const OF_THE_GUEST: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Below those, what holds the host's data all the same.
const OF_THE_HOST: [&str; 1] = [memory::SHM];
/// In place of the index of a mount.
const ROOT: i32 = -1;

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
        let root = Mounted::make(&path, true, || sys::attach_tree(self.0.as_fd(), &target))?;
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
        let root = Mounted::make(&path, true, || {
            mount(Some(&path), &path, none, MsFlags::MS_BIND, none).map_err(io::Error::from)
        })?;
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
        let tree = sys::copy_tree(&path, false).attempt(|| format!("lift the mount {}", self.path().display()))?;
        // The directory stays, and the mount goes with its namespace.
        std::mem::forget(self.root);
        Ok(Lifted(tree))
    }

    /// Puts the bind mounts of a container in place, whose paths are looked up in `origin`. The answer is the guard of the mounts, and
    /// where they are in the share. `holder`: the container that holds namespaces for the others, if there is one.
    pub fn place(
        &self,
        id: &str,
        bundle: &Bundle,
        holder: Option<&str>,
        origin: &Origin,
    ) -> Result<(Placed, Vec<Attachment>)> {
        let dir = self.path().join(id);
        make_dir(&dir)?;
        let mut placed = Placed {
            id: id.to_owned(),
            mounts: Vec::new(),
            dir,
        };
        let mut attachments = Vec::new();
        for (index, mount) in bundle.spec().mounts().iter().flatten().enumerate() {
            let Some(bind) = Bind::of(mount) else { continue };
            let name = volume(index);
            let what = || format!("mount {} for {}", bind.source.display(), mount.destination().display());
            let index = i32::try_from(index).context(Kind::Invalid, || "count the mounts".into())?;
            let tree = origin.tree(&bind.source, bind.recursive).attempt(what)?;
            let held = holder.and_then(|holder| memory::held(mount, holder));
            let source = match held.or_else(|| memory::prepared(mount, &tree)) {
                Some(memory) => Source::Memory(memory),
                None => {
                    placed.volume(&tree, &bind, &name).attempt(what)?;
                    shared(format!("{id}/{name}"))
                }
            };
            attachments.push(attachment(index, source));
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
    // The guest's memory has no place here.
    let placed = |index: usize, mount| {
        Bind::of(mount).is_some() && (!memory::by_name(mount) || dir.join(volume(index)).exists())
    };
    let volumes = mounts.filter(|(index, mount)| placed(*index, mount));
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

/// The rootfs that is on a device of the machine.
pub fn root_on(device: Source) -> Attachment {
    attachment(ROOT, device)
}

/// What is `name` in the directory of [`Placed::layer`], for the container `id`.
pub fn of_layer(id: &str, name: &str) -> api::agent::Share {
    share(format!("{id}/{LAYER}/{name}"))
}

/// An empty rootfs of the guest's own.
pub fn empty_root(id: &str) -> Attachment {
    attachment(ROOT, Source::Memory(memory::root(id)))
}

fn attachment(mount: i32, source: Source) -> Attachment {
    Attachment {
        mount,
        source: Some(source),
        ..Attachment::default()
    }
}

fn shared(path: String) -> Source {
    Source::Share(share(path))
}

fn share(path: String) -> api::agent::Share {
    api::agent::Share {
        tag: TAG.to_owned(),
        path,
        ..api::agent::Share::default()
    }
}

/// A bind mount of a path of the host.
#[derive(Debug, PartialEq, Eq)]
struct Bind {
    source: PathBuf,
    recursive: bool,
    read_only: bool,
    /// What the host mounts below the source later stays outside.
    private: bool,
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
        // Given to the machine itself.
        if is_block_device(&source) {
            return None;
        }
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
            private: options.iter().rev().find_map(|option| match option.as_str() {
                "rprivate" | "private" | "runbindable" | "unbindable" => Some(true),
                "rslave" | "slave" | "rshared" | "shared" => Some(false),
                _ => None,
            }) == Some(true),
            source,
        })
    }
}

/// The mounts of one container; undone on drop.
#[derive(Debug)]
pub struct Placed {
    id: String,
    mounts: Vec<Mounted>,
    dir: PathBuf,
}

impl Placed {
    /// Puts the rootfs in place, too. `rootfs`: what to mount in place of the bundle's own root.
    pub fn root(&mut self, bundle: &Bundle, rootfs: &[RootMount], origin: &Origin) -> Result<Attachment> {
        let root = self.dir.join("rootfs");
        make_dir(&root)?;
        if rootfs.is_empty() {
            self.bind(origin, bundle.rootfs(), &root, false)?;
        }
        for wanted in rootfs {
            self.mount(origin, wanted, &root)?;
        }
        Ok(attachment(ROOT, shared(format!("{}/rootfs", self.id))))
    }

    /// Shows an empty rootfs with a place for processes: the container's is known to the guest alone.
    pub fn no_root(&mut self) -> Result<()> {
        let root = self.dir.join("rootfs");
        make_dir(&root)?;
        let options = Some("mode=755,size=64k");
        self.mounts.push(Mounted::make(&root, true, || {
            mount(Some("none"), &root, Some("tmpfs"), MsFlags::empty(), options).map_err(io::Error::from)
        })?);
        make_dir(&root.join("proc"))?;
        sys::make_read_only(&c_path(&root)?, false).attempt(|| "make an empty rootfs read-only".into())
    }

    /// Puts the directory `dir` in place, in which the container's own files are, and what an overlay needs. The guest cannot change which
    /// entries it has.
    pub fn layer(&mut self, dir: &Path, origin: &Origin) -> Result<()> {
        let target = self.dir.join(LAYER);
        make_dir(&target)?;
        self.bind(origin, dir, &target, false)
    }

    fn volume(&mut self, tree: &OwnedFd, bind: &Bind, name: &str) -> Result<()> {
        let target = self.dir.join(name);
        let found = fstat(tree).attempt(|| "look at it".into())?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            make_dir(&target)?;
        } else {
            File::create_new(&target).attempt(|| format!("create {}", target.display()))?;
        }
        if bind.private {
            sys::leave(tree.as_fd()).attempt(|| "take it out of its peer group".into())?;
        }
        self.attach(tree, &target, bind.read_only)
    }

    fn bind(&mut self, origin: &Origin, source: &Path, target: &Path, read_only: bool) -> Result<()> {
        let what = || format!("bind {}", source.display());
        let tree = origin.tree(source, true).attempt(what)?;
        self.attach(&tree, target, read_only).attempt(what)
    }

    fn attach(&mut self, tree: &OwnedFd, target: &Path, read_only: bool) -> Result<()> {
        let path = c_path(target)?;
        let made = Mounted::make(target, target.is_dir(), || sys::attach_tree(tree.as_fd(), &path));
        self.mounts.push(made?);
        if read_only {
            // A guest that was taken over cannot write there either.
            sys::make_read_only(&path, false).attempt(|| "make it read-only".into())?;
        }
        Ok(())
    }

    fn mount(&mut self, origin: &Origin, wanted: &RootMount, target: &Path) -> Result<()> {
        let options = Options::parse(&wanted.options);
        if options.bind || wanted.kind == "bind" {
            return self.bind(origin, Path::new(&wanted.source), target, options.read_only);
        }
        let flags = options.flags
            | if options.read_only {
                MsFlags::MS_RDONLY
            } else {
                MsFlags::empty()
            };
        let data = options.data.join(",");
        let what = || format!("mount the rootfs ({}, options {data:?})", wanted.kind);
        // Free again when it is unmounted.
        let device = options.on_loop.then(|| Loop::of(&wanted.source, options.read_only));
        let device = device.transpose().attempt(what)?;
        let source = device.as_ref().map_or(wanted.source.as_str(), Loop::path);
        let kind = wanted.kind.as_str();
        let made = Mounted::make(target, true, || {
            mount(Some(source), target, Some(kind), flags, Some(data.as_str())).map_err(io::Error::from)
        });
        self.mounts.push(made.attempt(what)?);
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
    on_loop: bool,
    read_only: bool,
    flags: MsFlags,
    data: Vec<String>,
}

impl Options {
    fn parse(words: &[String]) -> Options {
        let mut options = Options {
            bind: false,
            on_loop: false,
            read_only: false,
            flags: MsFlags::empty(),
            data: Vec::new(),
        };
        for word in words {
            match word.as_str() {
                "bind" | "rbind" => options.bind = true,
                "loop" => options.on_loop = true,
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
    fn make(path: &Path, directory: bool, how: impl FnOnce() -> io::Result<()>) -> Result<Mounted> {
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
        Err(e) if e.kind() != io::ErrorKind::NotFound => log::warn!("remove {}: {e}", path.display()),
        _ => {}
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
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
                read_only: true,
                private: false
            }
        );
        let private = |options: &str| {
            let json = format!(r#"{{"destination":"/d","source":"/x","options":[{options}]}}"#);
            bind(&json).unwrap().private
        };
        assert!(private(r#""rbind","rprivate""#) && private(r#""bind","slave","private""#));
        assert!(!private(r#""rbind","rprivate","rslave""#));
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
            let shm = top.path().join("shm");
            fs::create_dir(&shm).unwrap();
            mount(Some("shm"), &shm, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
            let json = serde_json::json!({
                "ociVersion": "1.0.2", "root": {"path": "rootfs"},
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ro"]},
                    {"destination": "/f", "type": "bind", "source": file, "options": ["bind"]},
                    {"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["bind"]}
                ]
            });
            let bundle = Bundle::parse(bundle_dir, serde_json::to_vec(&json).unwrap()).unwrap();
            let share = Share::open(top.path()).unwrap();
            let here = Origin::default();
            let (mut placed, mut attachments) = share.place("c1", &bundle, None, &here).unwrap();
            attachments.insert(0, placed.root(&bundle, &[], &here).unwrap());
            let indices: Vec<i32> = attachments.iter().map(|attachment| attachment.mount).collect();
            assert_eq!(indices, [-1, 1, 2, 3]);
            let Some(Source::Memory(memory)) = &attachments[3].source else {
                panic!("{:?}", attachments[3]);
            };
            assert_eq!(memory.bytes, 1 << 20);
            let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&shm).unwrap());
            assert!(memory.name.ends_with(&format!("-{inode}")), "{}", memory.name);
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
            assert_eq!(
                share.place("c1", &bundle, None, &here).unwrap_err().kind(),
                Kind::Exists
            );
            drop(placed);
            assert!(!at.exists());
            let tmpfs = RootMount {
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                options: vec!["size=64k".into(), "nodev".into()],
            };
            let (mut placed, _) = share.place("c2", &bundle, None, &here).unwrap();
            placed.root(&bundle, &[tmpfs], &here).unwrap();
            fs::write(share.path().join("c2/rootfs/x"), "").unwrap();
            drop(placed);
            drop(share);
            assert!(!top.path().join(NAME).exists());
            assert!(volume.exists() && file.exists());
        });
        done.join().unwrap();
    }
}
