// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The images of this machine, on disk:
//!
//! ```text
//! <root>/lock            shared by whoever uses images, exclusive for whoever removes content
//! <root>/blobs/sha256/   manifests and configurations; layers only until they are unpacked
//! <root>/layers/<chain>/ one unpacked layer in overlayfs format
//! <root>/l/<short>       a link to it: mount options have room for one page
//! <root>/refs/           what a name stands for
//! <root>/locks/<chain>   held while that layer is being made
//! <root>/tmp/<n>/        work in progress, locked by its owner; without an owner it is rubbish
//! ```
//!
//! Content appears under its name by rename only, complete and checked.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Context, Error, Kind, Result, file};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::digest::Digest;
use crate::job::Cancel;
use crate::refs::Refs;

/// A store's directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A private directory for work in progress; goes away with its owner, at the latest when the store is opened next.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Room {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(e) = file::remove_tree(&self.path) {
            log::warn!("{}", e.chain());
        }
    }
}

/// While it lives, no content of the store is removed.
#[derive(Debug)]
pub struct InUse(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

/// What a removal of unused content did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Layers that were removed.
    pub layers: usize,
}

fn lock(path: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let tried = || format!("lock {}", path.display());
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).open(path)
        }
        other => other,
    };
    let mut file = file.attempt(tried)?;
    loop {
        match Flock::lock(file, how) {
            Ok(held) => return Ok(Some(held)),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, e)) => return Err(e).attempt(tried),
        }
    }
}

impl Store {
    /// Opens or makes the store at `root` and removes what interrupted work left.
    pub fn open(root: &Path) -> Result<Store> {
        for dir in ["blobs/sha256", "layers", "l", "refs", "locks", "tmp"] {
            let path = root.join(dir);
            let made = DirBuilder::new().recursive(true).mode(0o711).create(&path);
            made.attempt(|| format!("create directory {}", path.display()))?;
        }
        let root = root.canonicalize().attempt(|| format!("find {}", root.display()))?;
        let store = Store { root };
        store.tidy()?;
        Ok(store)
    }

    pub(crate) fn refs(&self) -> Refs {
        Refs::new(self.root.join("refs"))
    }

    /// Keeps content from being removed.
    pub fn in_use(&self) -> Result<InUse> {
        let path = self.root.join("lock");
        let held = lock(&path, FlockArg::LockShared)?;
        held.map(InUse)
            .ok_or_else(|| Error::new(Kind::Bug, "wait for a lock, in vain"))
    }

    /// Removes rooms whose owner has gone.
    fn tidy(&self) -> Result<()> {
        let _door = self.door()?;
        let tmp = self.root.join("tmp");
        let tried = || format!("read directory {}", tmp.display());
        for entry in fs::read_dir(&tmp).attempt(tried)? {
            let path = entry.attempt(tried)?.path();
            if path.is_dir() && lock(&path, FlockArg::LockExclusiveNonblock)?.is_some() {
                file::remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Between a room's making and its locking nobody may look.
    fn door(&self) -> Result<Option<Flock<File>>> {
        lock(&self.root.join("tmp.lock"), FlockArg::LockExclusive)
    }

    /// Room for work in progress, on the same file system as the content.
    pub(crate) fn room(&self) -> Result<Room> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.root.join("tmp").join(name);
        let _door = self.door()?;
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.attempt(|| format!("create directory {}", path.display()))?;
        match lock(&path, FlockArg::LockExclusiveNonblock) {
            Ok(Some(held)) => Ok(Room { path, _lock: held }),
            other => {
                file::remove_tree(&path)?;
                other?;
                Err(Error::new(Kind::Bug, format!("{} is locked already", path.display())))
            }
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Takes a checked file of a room.
    pub(crate) fn keep_blob(&self, file: &Path, digest: &Digest) -> Result<()> {
        fs::rename(file, self.blob_path(digest)).attempt(|| format!("keep the blob {digest}"))
    }

    /// Takes a checked small document.
    pub(crate) fn keep_document(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        file::replace(&self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    /// A small document. Errors: `NotFound`, `Invalid` when it is not what its digest says.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).attempt(|| format!("read {}", path.display()))?;
        crate::layout::check(&Digest::of(&bytes), digest, "the image store")?;
        Ok(bytes)
    }

    /// A layer's directory, there or not.
    pub(crate) fn layer_path(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// Waits until nobody else makes this layer. Errors: `Gone` when cancelled meanwhile.
    pub(crate) fn layer_lock(&self, chain: &Digest, cancel: &Cancel) -> Result<Flock<File>> {
        let path = self.root.join("locks").join(chain.hex());
        loop {
            if let Some(held) = lock(&path, FlockArg::LockExclusiveNonblock)? {
                return Ok(held);
            }
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes an unpacked layer out of a room. A crash of the machine must not leave a half-written one under its name.
    pub(crate) fn keep_layer(&self, dir: &Path, chain: &Digest) -> Result<()> {
        let tried = || format!("keep the layer {chain}");
        nix::unistd::syncfs(File::open(dir).attempt(tried)?).attempt(tried)?;
        fs::rename(dir, self.layer_path(chain)).attempt(tried)
    }

    /// The short link to a layer.
    pub(crate) fn short(&self, chain: &Digest) -> Result<PathBuf> {
        let target = Path::new("../layers").join(chain.hex());
        for length in 8..=64 {
            let link = self.root.join("l").join(&chain.hex()[..length]);
            match symlink(&target, &link) {
                Ok(()) => return Ok(link),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    if fs::read_link(&link).is_ok_and(|found| found == target) {
                        return Ok(link);
                    }
                }
                other => other.attempt(|| format!("create link {}", link.display()))?,
            }
        }
        Err(Error::new(
            Kind::Bug,
            format!("no short name left for the layer {chain}"),
        ))
    }

    /// Removes what no name and nobody in `keep` (chain ids) uses. None when images are being used or pulled now:
    /// a later call will do it.
    pub fn sweep(&self, keep: &[Digest]) -> Result<Option<Swept>> {
        let Some(_alone) = lock(&self.root.join("lock"), FlockArg::LockExclusiveNonblock)? else {
            return Ok(None);
        };
        let mut blobs = BTreeSet::new();
        let mut layers: BTreeSet<String> = keep.iter().map(|chain| chain.hex().to_owned()).collect();
        for named in self.refs().list()? {
            blobs.insert(named.manifest.hex().to_owned());
            // One that cannot be read keeps nothing: it is of no use.
            if let Ok(image) = crate::image::documents(self, &named.manifest, &named.name) {
                blobs.insert(image.config_digest.hex().to_owned());
                layers.extend(image.layers.iter().map(|layer| layer.chain.hex().to_owned()));
            }
        }
        let mut swept = Swept::default();
        self.remove_except("layers", &layers, |path| {
            swept.layers += 1;
            // Under its name it must be whole or not there.
            let room = self.room()?;
            let gone = room.path().join("layer");
            fs::rename(path, &gone).attempt(|| format!("remove {}", path.display()))
        })?;
        let unlink = |path: &Path| fs::remove_file(path).attempt(|| format!("remove {}", path.display()));
        self.remove_except("blobs/sha256", &blobs, unlink)?;
        self.remove_except("locks", &layers, unlink)?;
        for entry in fs::read_dir(self.root.join("l")).attempt(|| "read the store's links".into())? {
            let link = entry.attempt(|| "read the store's links".into())?.path();
            if !link.exists() {
                unlink(&link)?;
            }
        }
        Ok(Some(swept))
    }

    fn remove_except(
        &self,
        dir: &str,
        keep: &BTreeSet<String>,
        mut remove: impl FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        let dir = self.root.join(dir);
        let tried = || format!("read directory {}", dir.display());
        for entry in fs::read_dir(&dir).attempt(tried)? {
            let entry = entry.attempt(tried)?;
            if !keep.contains(&*entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}
