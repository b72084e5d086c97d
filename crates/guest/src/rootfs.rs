// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The container's file system: laid out below a root that is not entered yet, with every path resolved
//! inside it, so that no symlink of an image leads out.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{chdir, fchdir, pivot_root};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::channel::Channel;
use crate::console::Console;
use crate::device;
use crate::mount::{Options, propagation};
use crate::stock::{self, Stock};
use crate::tree::Tree;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What is mounted from the guest, opened while its paths can still be reached.
#[derive(Debug)]
pub struct Rootfs {
    root: Tree,
    /// One for each bind mount of the spec, none for the other mounts.
    binds: Vec<Option<(Tree, bool)>>,
    /// For the other mounts.
    stock: Stock,
}

impl Rootfs {
    /// Opens the root and all sources.
    pub fn open(spec: &Spec, stock: Stock) -> Result<Rootfs> {
        let root = spec
            .root()
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Invalid, "root is missing"))?;
        let root = Tree::open_path(root.path(), true)?;
        let binds = spec.mounts().iter().flatten().map(bind).collect::<Result<_>>()?;
        Ok(Rootfs { root, binds, stock })
    }

    /// Mounts everything below the root, in the namespaces of the container.
    pub fn lay(mut self, spec: &Spec, cgroup: &Path, channel: &Channel) -> Result<Laid> {
        let none = None::<&str>;
        // Nothing that happens here reaches the guest.
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .attempt(|| "keep mounts from the guest".into())?;
        self.root.propagate(libc::MS_PRIVATE, true)?;
        // Over the old root, whose place is the one that is always reachable.
        let old = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).attempt(|| "open /".into())?;
        self.root.attach(old.as_fd())?;
        let laid = Laid { root: self.root };
        let mut own_dev = true;
        for (mount, bind) in spec.mounts().iter().flatten().zip(self.binds) {
            own_dev &= bind.is_none() || mount.destination() != Path::new("/dev");
            laid.mount(mount, bind, spec, cgroup, &mut self.stock)
                .attempt(|| format!("mount {}", mount.destination().display()))?;
        }
        if own_dev {
            device::populate(&laid, spec)?;
        }
        laid.hide(spec, &mut self.stock, channel)?;
        Ok(laid)
    }
}

fn bind(mount: &Mount) -> Result<Option<(Tree, bool)>> {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let Some(recursive) = options.binds(mount.typ().as_deref()) else {
        return Ok(None);
    };
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let tree = Tree::open_path(source, recursive)?;
    let dir = is_dir(tree.as_fd())?;
    tree.set(options.set, options.clear, false)?;
    tree.set(options.set_below, options.clear_below, true)?;
    Ok(Some((tree, dir)))
}

fn is_dir(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = fstat(fd).attempt(|| "look at a file".into())?;
    Ok(kind_of(&stat) == SFlag::S_IFDIR)
}

/// The type of a file.
pub fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT)
}

/// The container's file system before it is entered.
#[derive(Debug)]
pub struct Laid {
    root: Tree,
}

impl Laid {
    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn mount(
        &self,
        mount: &Mount,
        bind: Option<(Tree, bool)>,
        spec: &Spec,
        cgroup: &Path,
        stock: &mut Stock,
    ) -> Result<()> {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
        let is_dir = bind.as_ref().is_none_or(|(_, dir)| *dir);
        let hidden = self.look(mount.destination())?;
        let target = match &hidden {
            Some(there) => there.try_clone().attempt(|| "duplicate a descriptor".into())?,
            None => self.make(mount.destination(), is_dir)?,
        };
        let tree = match bind {
            Some((tree, _)) => tree,
            None => self.file_system(mount, &options, hidden.as_ref(), spec, cgroup, stock)?,
        };
        if options.copy_up {
            device::copy_up(target.as_fd(), tree.as_fd())?;
        }
        tree.attach(target.as_fd())?;
        for (kind, recursive) in &options.propagation {
            tree.propagate(*kind, *recursive)?;
        }
        Ok(())
    }

    fn file_system(
        &self,
        mount: &Mount,
        options: &Options,
        hidden: Option<&OwnedFd>,
        spec: &Spec,
        cgroup: &Path,
        stock: &mut Stock,
    ) -> Result<Tree> {
        let Some(kind) = mount.typ().as_deref() else {
            return Err(Error::new(Kind::Invalid, "it has no type and is no bind mount"));
        };
        let source = mount.source().as_deref().and_then(Path::to_str).unwrap_or(kind);
        let source = if source.is_empty() { kind } else { source };
        let mut data = options.data.clone();
        let set = options.set | options.set_below;
        match kind {
            // Only version 2 is there; what the options say is about version 1.
            "cgroup" | "cgroup2" => return self.cgroup(set, spec, cgroup),
            // That of the directory which it hides, as with runc; everybody may write to one that hides none.
            "tmpfs" if !data.iter().any(|option| option.starts_with("mode=")) => {
                if let Some(hidden) = hidden {
                    let stat = fstat(hidden).attempt(|| "look at the mount point".into())?;
                    data.push(format!("mode={:o}", stat.st_mode & 0o7777));
                }
            }
            "sysfs" => match stock.take(kind, source, &data) {
                // A user namespace gets its own sysfs only with a network of its own, which is the guest's here.
                Err(e) if e.kind() == Kind::Denied => {
                    let tree = Tree::open(c"/sys", true)?;
                    tree.set(set, options.clear, true)?;
                    return Ok(tree);
                }
                other => return other?.mount(set),
            },
            // A block device that may only be read is not opened for more.
            _ if source.starts_with("/dev/") && set & libc::MOUNT_ATTR_RDONLY != 0 => data.push("ro".into()),
            _ => {}
        }
        stock.take(kind, source, &data)?.mount(set)
    }

    fn cgroup(&self, set: u64, spec: &Spec, cgroup: &Path) -> Result<Tree> {
        let mut namespaces = spec
            .linux()
            .iter()
            .flat_map(|linux| linux.namespaces().iter().flatten());
        if namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup) {
            return Tree::new("cgroup2", "cgroup", &[], set);
        }
        let tree = Tree::open_path(cgroup, false)?;
        tree.set(set, 0, false)?;
        Ok(tree)
    }

    /// Opens what is at `path` (O_PATH), symlinks resolved inside the root. None if there is nothing.
    pub fn look(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match openat2(self.root(), path, inside(OFlag::O_PATH)) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(None),
            other => other
                .attempt(|| format!("open {} in the rootfs", path.display()))
                .map(Some),
        }
    }

    /// As [`Laid::look`], making what is missing: directories, and a file at the end unless `dir`.
    pub fn make(&self, path: &Path, dir: bool) -> Result<OwnedFd> {
        if let Some(there) = self.look(path)? {
            return Ok(there);
        }
        let what = || format!("make {} in the rootfs", path.display());
        let mut left = parts(path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = left.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let parent = openat2(self.root(), &at, inside(OFlag::O_PATH | OFlag::O_DIRECTORY)).attempt(what)?;
            at.push(&part);
            if self.look(&at)?.is_some() {
                continue;
            }
            // Missing, or a symlink to what is missing.
            if let Ok(link) = readlinkat(&parent, part.as_os_str()) {
                links += 1;
                if links > MOST_LINKS {
                    return Err(nix::Error::ELOOP).attempt(what);
                }
                let link = PathBuf::from(link);
                at.pop();
                if link.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut rest = parts(&link);
                rest.append(&mut left);
                left = rest;
            } else if left.is_empty() && !dir {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                openat(&parent, part.as_os_str(), flags, Mode::from_bits_truncate(0o644)).attempt(what)?;
            } else {
                mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755)).attempt(what)?;
            }
        }
        openat2(self.root(), &at, inside(OFlag::O_PATH)).attempt(what)
    }

    /// Masked and read-only paths; what is not there needs no hiding.
    fn hide(&self, spec: &Spec, stock: &mut Stock, channel: &Channel) -> Result<()> {
        let Some(linux) = spec.linux() else { return Ok(()) };
        for path in linux.readonly_paths().iter().flatten() {
            let Some(there) = self.look(Path::new(path))? else {
                continue;
            };
            let flags = libc::MOUNT_ATTR_RDONLY;
            let tree = Tree::open_fd(there.as_fd(), path)?;
            // It keeps the attributes of the mount that it is a part of.
            tree.set(flags, 0, true)?;
            tree.attach(there.as_fd())?;
        }
        for path in linux.masked_paths().iter().flatten() {
            let Some(there) = self.look(Path::new(path))? else {
                continue;
            };
            let mask = if is_dir(there.as_fd())? {
                let (kind, source, options) = stock::EMPTY;
                let options: Vec<_> = options.iter().copied().map(str::to_owned).collect();
                stock.take(kind, source, &options)?.mount(libc::MOUNT_ATTR_RDONLY)?
            } else {
                // The guest's, not the container's, which may be anything.
                Tree::open(c"/dev/null", false)?
            };
            if let Err(e) = mask.attach(there.as_fd()) {
                channel.warn(format!("mask {path}: {}", e.chain()));
                return Err(e);
            }
        }
        Ok(())
    }

    /// Puts the terminal at /dev/console.
    pub fn place_console(&mut self, console: &Console) -> Result<()> {
        let target = self.make(Path::new("/dev/console"), false)?;
        Tree::open_fd(console.peer.as_fd(), "the terminal")?.attach(target.as_fd())
    }

    /// Makes it the root of this process, and lets go of the guest's.
    pub fn enter(self, spec: &Spec) -> Result<()> {
        let none = None::<&str>;
        if let Some(cwd) = spec.process().as_ref().map(|process| process.cwd()) {
            self.make(cwd, true)?;
        }
        if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
            self.root.set(libc::MOUNT_ATTR_RDONLY, 0, false)?;
        }
        let what = || "enter the rootfs".to_owned();
        fchdir(&self.root).attempt(what)?;
        pivot_root(".", ".").attempt(what)?;
        // The old root now lies over the new one; its unmounting must not spread.
        mount(none, ".", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).attempt(what)?;
        umount2(".", MntFlags::MNT_DETACH).attempt(|| "let go of the guest's root".into())?;
        chdir("/").attempt(what)?;
        let wanted = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.rootfs_propagation().as_deref());
        if let Some((kind, recursive)) = wanted.and_then(propagation) {
            self.root.propagate(kind, recursive)?;
        }
        Ok(())
    }
}

fn inside(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

/// What an entry of a directory is, without following a symlink.
pub fn look_at(dir: BorrowedFd<'_>, name: &Path) -> nix::Result<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}
