// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Kernels of our own: compiles the source of a distribution's kernel with a configuration that has all that a container may
//! ask for and nothing that only hardware has, all of it built in. The same inputs make the same kernel, byte by byte.
//!
//! Nothing is left of a build that fails or is stopped; the store holds whole kernels only.

pub mod fragment;
mod kernels;
mod make;
mod manifest;
pub mod source;
#[cfg(test)]
mod tests;
mod toolchain;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base::file::OwnedDir;
use base::{Context, Error, Kind, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::Progress;
use crate::manifest::{Input, Output};
use crate::modules::WANTED;
use crate::store::{KERNEL, MANIFEST};
use crate::{apt, digest, elf, options};
use fragment::Fragment;
pub(crate) use kernels::DIR;
use kernels::{BUILTIN, CONFIG};
pub use kernels::{Kernels, OwnKernel};
use make::Make;
pub use manifest::KernelManifest;
use manifest::SCHEMA;
use source::{Origin, Source, born, kconfigs};
use toolchain::Toolchain;

/// Changes when the same inputs make another kernel.
const LAYOUT: &str = "kata guest kernel 1";
/// Our configuration.
pub const FRAGMENT: &str = include_str!("../../kernel/kata.config");
const FRAGMENT_NAME: &str = "kata.config";
/// What a tree and all that is made of it take at most, as seen with 6.12.
const SPACE: u64 = 4 << 30;
/// Drivers that are modules elsewhere and that no guest boots without.
const DRIVERS: [(&str, &str); 6] = [
    ("VIRTIO_MMIO", "devices"),
    ("VIRTIO_PCI", "devices"),
    ("VIRTIO_VSOCKETS", "the agent"),
    ("VIRTIO_FS", "the container's files"),
    ("OVERLAY_FS", "the container's files"),
    ("VIRTIO_NET", "the network"),
];

/// What to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where the source comes from.
    pub source: Origin,
    /// Configuration fragments of the user's, laid over ours in this order.
    pub fragments: Vec<PathBuf>,
    /// How many things are compiled at a time.
    pub jobs: usize,
    /// The time that the kernel says it was built at (`$SOURCE_DATE_EPOCH`), if not that of its source.
    pub epoch: Option<i64>,
    /// Compile even if the kernel exists.
    pub force: bool,
}

/// Compiles a kernel into `kernels`, unless it is there already; returns it, and whether it had to be made.
pub fn build(kernels: &Kernels, request: &Request, progress: &dyn Progress) -> Result<(OwnKernel, bool)> {
    Recipe::of(request, progress)?.make(kernels, &workshop(), request.force, progress)
}

/// Compiles a kernel into the directory `out`, which is created; no store is touched.
pub fn export(out: &Path, request: &Request, progress: &dyn Progress) -> Result<OwnKernel> {
    let recipe = Recipe::of(request, progress)?;
    let workshop = Workshop::open(&workshop())?;
    let compiled = recipe.compile(&workshop, progress)?;
    fs::create_dir_all(out).attempt(|| format!("create directory {}", out.display()))?;
    let aside = OwnedDir::create(&out.join(format!(".kata-{}", std::process::id())))?;
    recipe.lay_out(&compiled, aside.path(), &recipe.key())?;
    for name in [KERNEL, CONFIG, BUILTIN, MANIFEST] {
        let path = out.join(name);
        fs::rename(aside.path().join(name), &path).attempt(|| format!("write {}", path.display()))?;
    }
    OwnKernel::at(out.to_owned())
}

/// Where trees are unpacked and compiled.
fn workshop() -> PathBuf {
    apt::cache().with_file_name("kernel")
}

/// Where kernels are compiled: one at a time, since a tree takes gigabytes. Goes with its owner.
struct Workshop {
    dir: OwnedDir,
    _lock: Flock<File>,
}

impl Workshop {
    fn open(parent: &Path) -> Result<Workshop> {
        fs::create_dir_all(parent).attempt(|| format!("create directory {}", parent.display()))?;
        let path = parent.join(".lock");
        let tried = || format!("lock {}", path.display());
        let lock = File::create(&path).attempt(tried)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, errno)| errno).attempt(tried)?;
        let dir = parent.join("build");
        // What a killed build left.
        base::file::remove_tree(&dir)?;
        let stat = statvfs(parent).attempt(|| format!("look at {}", parent.display()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < SPACE {
            let reason = format!(
                "compiling a kernel takes up to {} MiB, and {} has {} MiB free: $KATA_CACHE_DIR names another place",
                SPACE >> 20,
                parent.display(),
                free >> 20
            );
            return Err(Error::new(Kind::State, reason));
        }
        Ok(Workshop {
            dir: OwnedDir::create(&dir)?,
            _lock: lock,
        })
    }
}

/// Everything that goes into a kernel.
struct Recipe {
    source: Source,
    toolchain: Toolchain,
    /// Ours, with the user's laid over it.
    fragment: Fragment,
    /// The user's.
    fragments: Vec<Input>,
    jobs: usize,
    epoch: Option<i64>,
}

/// A kernel that was compiled, in the workshop.
struct Compiled {
    dir: PathBuf,
    release: String,
    epoch: i64,
    config: String,
    unknown: Vec<String>,
}

impl Recipe {
    fn of(request: &Request, progress: &dyn Progress) -> Result<Recipe> {
        // What is quick to find out, and what the user can mend, comes first.
        let mut fragment = Fragment::parse(FRAGMENT, FRAGMENT_NAME, false)?;
        let mut fragments = Vec::new();
        for path in &request.fragments {
            let text = fs::read_to_string(path).attempt(|| format!("read fragment {}", path.display()))?;
            fragment.over(Fragment::parse(&text, &path.display().to_string(), true)?);
            fragments.push(Input::of_file(path)?);
        }
        let toolchain = Toolchain::find()?;
        Ok(Recipe {
            source: request.source.fetch(progress)?,
            toolchain,
            fragment,
            fragments,
            jobs: request.jobs.max(1),
            epoch: request.epoch,
        })
    }

    /// A hash over all inputs: same key, same kernel.
    fn key(&self) -> String {
        let wished = self.fragment.text();
        let epoch = self.epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        let parts = [
            LAYOUT,
            &self.source.input().sha256,
            &self.toolchain.compiler,
            &self.toolchain.linker,
            &epoch,
            &wished,
        ];
        digest::of(parts.join("\n").as_bytes())
    }

    /// See [`build`].
    fn make(
        &self,
        kernels: &Kernels,
        workshop: &Path,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<(OwnKernel, bool)> {
        let key = self.key();
        let existing = || -> Result<Option<OwnKernel>> {
            let Some(kernel) = kernels.intact(&key).filter(|_| !force) else {
                return Ok(None);
            };
            kernels.choose(&key, &kernels.lock()?)?;
            Ok(Some(kernel))
        };
        if let Some(kernel) = existing()? {
            return Ok((kernel, false));
        }
        let workshop = Workshop::open(workshop)?;
        // Another build may have done it while we waited.
        if let Some(kernel) = existing()? {
            return Ok((kernel, false));
        }
        let compiled = self.compile(&workshop, progress)?;
        let lock = kernels.lock()?;
        let fresh = kernels.fresh(&lock)?;
        self.lay_out(&compiled, fresh.path(), &key)?;
        let kernel = kernels.adopt(fresh, &key, &lock)?;
        kernels.choose(&key, &lock)?;
        Ok((kernel, true))
    }

    fn compile(&self, workshop: &Workshop, progress: &dyn Progress) -> Result<Compiled> {
        let tree = self.source.tree(&workshop.dir.path().join("source"), progress)?;
        let out = workshop.dir.path().join("out");
        fs::create_dir_all(&out).attempt(|| format!("create directory {}", out.display()))?;
        let make = Make {
            epoch: match self.epoch {
                Some(epoch) => epoch,
                None => born(&tree)?,
            },
            tree: &tree,
            out: &out,
            jobs: self.jobs,
            progress,
        };
        let (config, unknown) = self.configure(&make)?;
        make.run("compile the kernel", &["vmlinux", "kernelrelease"])?;
        // Symbols and relocations are for debuggers, and would be read at each boot.
        make.tool("strip the kernel", "strip", &["--strip-all", KERNEL])?;
        let text = |name: &str| {
            let path = out.join(name);
            fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))
        };
        let kernel = fs::read(out.join(KERNEL)).attempt(|| "read the compiled kernel".into())?;
        elf::pvh_entry(&kernel)?;
        let mut modules = crate::modules::Modules::default();
        modules.add_builtin(&text(BUILTIN)?);
        modules.resolve(&WANTED)?;
        Ok(Compiled {
            release: text("include/config/kernel.release")?.trim().to_owned(),
            epoch: make.epoch,
            config,
            unknown,
            dir: out,
        })
    }

    /// Writes the configuration and sees whether all that was wished for is in it. Returns it, and which options of ours the
    /// kernel does not know.
    fn configure(&self, make: &Make<'_>) -> Result<(String, Vec<String>)> {
        let wished = make.out.join("wished");
        fs::write(&wished, self.fragment.text()).attempt(|| format!("write {}", wished.display()))?;
        let all = format!("KCONFIG_ALLCONFIG={}", wished.display());
        make.run("configure the kernel", &[&all, "allnoconfig"])?;
        // Settles what the first pass could only decide later.
        make.run("check the configuration", &["olddefconfig"])?;
        let path = make.out.join(".config");
        let config = fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
        let mut known = BTreeSet::new();
        kconfigs(make.tree, &mut |text| {
            known.extend(fragment::defined(text).map(str::to_owned));
        })?;
        let verdict = self.fragment.judge(&config, &known);
        if !verdict.refused.is_empty() {
            let hint = "something that the option needs is off, or excludes it: set that too, or turn the option off";
            let list = verdict.refused.join("\n  ");
            let reason = format!("the kernel's rules do not allow the configuration ({hint}):\n  {list}");
            return Err(Error::new(Kind::Invalid, reason));
        }
        if !verdict.unknown.is_empty() {
            let list = verdict.unknown.join(", ");
            make.progress
                .step(&format!("go on without what this kernel does not have: {list}"))?;
        }
        let mut missing = options::missing(&config);
        missing.extend(options::missing_of(&DRIVERS, &config));
        if missing.is_empty() {
            return Ok((config, verdict.unknown));
        }
        let reason = format!("no guest can run on a kernel without {}", missing.join(", "));
        Err(Error::new(Kind::Unsupported, reason))
    }

    /// Puts a finished kernel into `dir`, with its papers.
    fn lay_out(&self, compiled: &Compiled, dir: &Path, key: &str) -> Result<()> {
        let copy = |from: &str, to: &str| {
            let (from, to) = (compiled.dir.join(from), dir.join(to));
            let tried = || format!("copy {} to {}", from.display(), to.display());
            fs::copy(&from, &to).attempt(tried)?;
            // It is about to be named by its hash.
            File::open(&to).and_then(|file| file.sync_all()).attempt(tried)
        };
        copy(KERNEL, KERNEL)?;
        copy(".config", CONFIG)?;
        copy(BUILTIN, BUILTIN)?;
        let created = OffsetDateTime::now_utc().format(&Rfc3339);
        let outputs: Result<Vec<Output>> = [KERNEL, CONFIG, BUILTIN]
            .map(|name| Output::of(dir, name))
            .into_iter()
            .collect();
        let manifest = KernelManifest {
            schema: SCHEMA,
            key: key.to_owned(),
            kata: env!("CARGO_PKG_VERSION").into(),
            created: created.context(Kind::Bug, || "write the time".into())?,
            release: compiled.release.clone(),
            epoch: compiled.epoch,
            compiler: self.toolchain.compiler.clone(),
            linker: self.toolchain.linker.clone(),
            source: self.source.input().clone(),
            fragments: self.fragments.clone(),
            wished: digest::of(self.fragment.text().as_bytes()),
            config: digest::of(compiled.config.as_bytes()),
            unknown: compiled.unknown.clone(),
            outputs: outputs?,
        };
        let mut bytes = serde_json::to_vec_pretty(&manifest).context(Kind::Bug, || "write the manifest".into())?;
        bytes.push(b'\n');
        base::file::replace(&dir.join(MANIFEST), &bytes)
    }
}
