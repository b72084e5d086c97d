// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Builds a guest image: kernel and modules from a source, the agent, and out come a kernel to boot, an initramfs
//! and the manifest. Whatever happens, the store holds whole images only.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::kernel::{Kernel, Source};
use crate::manifest::{Asked, Input, Manifest, Output, SCHEMA, Stamp};
use crate::modules::{LATER, WANTED};
use crate::shelf::Lock;
use crate::store::{GuestImage, INITRAMFS, KERNEL, MANIFEST, Store};
use crate::{apt, bzimage, digest, elf, initramfs, own};

/// Changes when the same inputs make another image.
const LAYOUT: &str = "kata guest image 4";

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where the kernel comes from.
    pub kernel: KernelChoice,
    /// The agent's program.
    pub agent: PathBuf,
    /// The name that the image gets.
    pub name: String,
    /// Build even if the image exists, and look for a newer kernel.
    pub force: bool,
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// The best installed kernel that fits; if there is none, the system's cloud kernel, fetched by apt.
    Auto,
    /// The cloud kernel of a Debian release, fetched by apt.
    Suite(String),
    /// Files that the user names.
    Given(Source),
}

/// Told about each step; may end the build between two of them.
pub trait Progress {
    /// A step begins. An error ends the build.
    fn step(&self, what: &str) -> Result<()>;

    /// Asked often during long steps. An error ends the build.
    fn check(&self) -> Result<()>;

    /// How far a long step is: shown where it can be overwritten.
    fn detail(&self, _what: &str) {}
}

/// What a build did.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: GuestImage,
    /// Whether it had to be made: otherwise it was there.
    pub fresh: bool,
}

/// Builds an image into `store`, unless it is there already.
pub fn build(store: &Store, request: &Request, progress: &dyn Progress) -> Result<Built> {
    if let Some(image) = unchanged(store, request) {
        return Ok(Built { image, fresh: false });
    }
    check_name(&request.name)?;
    progress.step("prepare the store")?;
    let lock = store.lock()?;
    // Another build may have done it meanwhile.
    if let Some(image) = unchanged(store, request) {
        return Ok(Built { image, fresh: false });
    }
    let recipe = Recipe::of(request, progress)?;
    let key = recipe.key();
    let existing = store.find(&key).and_then(|image| image.check(true).map(|()| image));
    let (image, fresh) = match existing {
        Ok(image) if !request.force => (recipe.note(&image)?, false),
        _ => (recipe.make(store, &key, &lock, progress)?, true),
    };
    store.name(&request.name, &key, &lock)?;
    Ok(Built { image, fresh })
}

/// Builds an image into the directory `out`, which is created; the store is left alone.
pub fn export(out: &Path, request: &Request, progress: &dyn Progress) -> Result<GuestImage> {
    fs::create_dir_all(out).attempt(|| format!("create directory {}", out.display()))?;
    let exported = export_into(out, request, progress);
    if exported.is_err() {
        // Goes only if it is empty, which is what we made it.
        let _ = fs::remove_dir(out);
    }
    exported
}

fn export_into(out: &Path, request: &Request, progress: &dyn Progress) -> Result<GuestImage> {
    // A store of its own, within: what is written there is renamed into place when it is whole.
    let aside = base::file::OwnedDir::create(&out.join(format!(".kata-{}", std::process::id())))?;
    let built = build(&Store::at(aside.path()), request, progress)?.image;
    for name in [KERNEL, INITRAMFS, MANIFEST] {
        let path = out.join(name);
        fs::rename(built.dir.join(name), &path).attempt(|| format!("write {}", path.display()))?;
    }
    Ok(GuestImage {
        dir: out.to_owned(),
        kernel: out.join(KERNEL),
        initramfs: out.join(INITRAMFS),
        manifest: built.manifest,
    })
}

/// The image that the same request gave last time, if nothing that it looked at has changed.
fn unchanged(store: &Store, request: &Request) -> Option<GuestImage> {
    let image = store.image(&request.name).ok().filter(|_| !request.force)?;
    let manifest = &image.manifest;
    let same = manifest.request.layout == LAYOUT
        && manifest.kata == env!("CARGO_PKG_VERSION")
        && manifest.agent.path == request.agent
        && manifest.request.kernel == request.kernel.words()
        && manifest
            .request
            .stamps
            .iter()
            .all(|stamp| Stamp::of(&stamp.path) == *stamp);
    same.then_some(image)
}

fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let usable = !name.is_empty() && name.len() <= 64 && name.bytes().all(fits);
    if usable && !name.starts_with('.') && !crate::shelf::is_key(name) && name != own::DIR {
        return Ok(());
    }
    let rule = "1 to 64 letters, digits, '_', '.' and '-', no '.' at the start, no key, and not \"kernels\"";
    Err(Error::new(
        Kind::Invalid,
        format!("{name:?} is no name for a guest image: {rule}"),
    ))
}

impl KernelChoice {
    fn words(&self) -> String {
        match self {
            KernelChoice::Auto => "auto".into(),
            KernelChoice::Suite(suite) => suite.clone(),
            KernelChoice::Given(Source::Own(dir)) => dir.display().to_string(),
            KernelChoice::Given(Source::Packages(paths)) => {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                paths.join(" ")
            }
            KernelChoice::Given(Source::Tree { image, modules, .. }) => {
                format!("{} {}", image.display(), modules.display())
            }
        }
    }

    /// The source, and what its choice depended on.
    fn resolve(&self, progress: &dyn Progress) -> Result<(Source, Vec<PathBuf>)> {
        match self {
            KernelChoice::Given(source) => {
                let seen = match source {
                    Source::Packages(paths) => paths.clone(),
                    Source::Own(dir) => vec![dir.join(MANIFEST)],
                    Source::Tree { image, modules, .. } => vec![image.clone(), modules.clone()],
                };
                Ok((source.clone(), seen))
            }
            KernelChoice::Suite(suite) => Ok((Source::Packages(fetch(Some(suite), progress)?), Vec::new())),
            KernelChoice::Auto => {
                let mut seen: Vec<PathBuf> = ["/boot", "/lib/modules"].map(PathBuf::from).into();
                progress.step("look for an installed kernel")?;
                for source in Source::installed(Path::new("/")) {
                    match usable(&source) {
                        Ok(()) => return Ok((source, seen)),
                        Err(e) => progress.step(&format!("skip an installed kernel: {}", e.chain()))?,
                    }
                }
                seen.push(apt::SYSTEM_LISTS.into());
                Ok((Source::Packages(fetch(None, progress)?), seen))
            }
        }
    }
}

fn fetch(suite: Option<&str>, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    apt::fetch(apt::CLOUD, suite, &apt::cache(), progress)
}

fn usable(source: &Source) -> Result<()> {
    let kernel = source.load()?;
    kernel.check()?;
    kernel.modules.resolve(&WANTED)?;
    Ok(())
}

/// Everything that goes into an image.
struct Recipe {
    source: Source,
    agent: Input,
    inputs: Vec<Input>,
    request: Asked,
}

impl Recipe {
    fn of(request: &Request, progress: &dyn Progress) -> Result<Recipe> {
        let agent = Input::of_file(&request.agent).attempt(|| "find the agent".into())?;
        let mut stamps = vec![Stamp::of(&request.agent)];
        let (source, seen) = request.kernel.resolve(progress)?;
        stamps.extend(seen.iter().map(|path| Stamp::of(path)));
        let inputs = source.inputs()?;
        Ok(Recipe {
            source,
            agent,
            inputs,
            request: Asked {
                layout: LAYOUT.to_owned(),
                kernel: request.kernel.words(),
                stamps,
            },
        })
    }

    /// A hash over the contents of all inputs: same key, same image.
    fn key(&self) -> String {
        let hashes = self
            .inputs
            .iter()
            .chain([&self.agent])
            .map(|input| input.sha256.as_str());
        let parts: Vec<&str> = [LAYOUT].into_iter().chain(WANTED).chain(LATER).chain(hashes).collect();
        digest::of(parts.join("\n").as_bytes())
    }

    /// Notes in an existing image that this request leads to it too.
    fn note(&self, image: &GuestImage) -> Result<GuestImage> {
        let manifest = Manifest {
            request: self.request.clone(),
            agent: self.agent.clone(),
            kata: env!("CARGO_PKG_VERSION").into(),
            ..image.manifest.clone()
        };
        base::file::replace(&image.dir.join(MANIFEST), &json(&manifest)?)?;
        Ok(GuestImage {
            manifest,
            ..image.clone()
        })
    }

    fn make(self, store: &Store, key: &str, lock: &Lock, progress: &dyn Progress) -> Result<GuestImage> {
        let agent = fs::read(&self.agent.path).attempt(|| format!("read {}", self.agent.path.display()))?;
        elf::check_static(&agent).attempt(|| format!("use {} as the agent", self.agent.path.display()))?;
        if digest::of(&agent) != self.agent.sha256 {
            let reason = format!("{} changed during the build", self.agent.path.display());
            return Err(Error::new(Kind::State, reason));
        }

        progress.step("read the kernel and its modules")?;
        let kernel = self.source.load()?;
        kernel.check()?;
        let modules = kernel.modules.resolve(&WANTED)?;
        let later = kernel.modules.resolve_later(&LATER, &modules)?;
        if let Some(other) = modules
            .iter()
            .chain(later.iter().flatten())
            .find(|module| module.release != kernel.release)
        {
            let reason = format!(
                "module {} is for {}, not for {}",
                other.name, other.release, kernel.release
            );
            return Err(Error::new(Kind::Invalid, reason));
        }

        let fresh = store.fresh(lock)?;
        progress.step(&format!("expand kernel {}", kernel.release))?;
        let image = bzimage::vmlinux(&kernel.image).attempt(|| format!("use kernel {}", kernel.release))?;
        write(&fresh.path().join(KERNEL), |out| {
            out.write_all(&image).attempt(|| "write the kernel".into())
        })?;
        progress.step(&format!(
            "write the initramfs with {} modules",
            modules.len() + later.iter().map(Vec::len).sum::<usize>()
        ))?;
        write(&fresh.path().join(INITRAMFS), |out| {
            initramfs::write(out, &agent, &kernel.release, &modules, &later)
        })?;
        progress.check()?;

        let created = OffsetDateTime::now_utc().format(&Rfc3339);
        let manifest = Manifest {
            schema: SCHEMA,
            key: key.to_owned(),
            kata: env!("CARGO_PKG_VERSION").into(),
            created: created.context(Kind::Bug, || "write the time".into())?,
            packages: packages(&kernel),
            release: kernel.release,
            modules: modules
                .into_iter()
                .chain(later.into_iter().flatten())
                .map(|module| module.name)
                .collect(),
            agent: self.agent,
            inputs: self.inputs,
            outputs: vec![Output::of(fresh.path(), KERNEL)?, Output::of(fresh.path(), INITRAMFS)?],
            request: self.request,
        };
        let bytes = json(&manifest)?;
        write(&fresh.path().join(MANIFEST), |out| {
            out.write_all(&bytes).attempt(|| "write the manifest".into())
        })?;
        store.adopt(fresh, key, lock)
    }
}

fn packages(kernel: &Kernel) -> Vec<String> {
    let packages = kernel.packages.iter();
    packages
        .map(|package| format!("{} {}", package.name, package.version))
        .collect()
}

fn json(manifest: &Manifest) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(manifest).context(Kind::Bug, || "write the manifest".into())?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a file to the disk, not only to memory: it is about to be named by its hash.
fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let tried = || format!("write {}", path.display());
    let mut out = BufWriter::new(File::create(path).attempt(tried)?);
    content(&mut out).attempt(tried)?;
    let file = out.into_inner().map_err(|e| e.into_error()).attempt(tried)?;
    file.sync_all().attempt(tried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Notes the steps; fails at the one that it is told to.
    #[derive(Default)]
    struct Watch {
        steps: RefCell<Vec<String>>,
        stop_at: Option<&'static str>,
    }

    impl Progress for Watch {
        fn step(&self, what: &str) -> Result<()> {
            self.steps.borrow_mut().push(what.to_owned());
            match self.stop_at {
                Some(stop) if what.contains(stop) => Err(Error::new(Kind::State, "interrupted")),
                _ => Ok(()),
            }
        }

        fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    struct Place {
        dir: tempfile::TempDir,
        request: Request,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            let modules = dir.path().join("6.1.0");
            fs::create_dir_all(modules.join("kernel")).unwrap();
            fs::write(modules.join("modules.builtin"), "kernel/fs/fuse/virtiofs.ko\n").unwrap();
            for name in WANTED {
                let module = elf::tests::module(&["depends=", "vermagic=6.1.0 SMP"]);
                fs::write(modules.join(format!("kernel/{name}.ko")), module).unwrap();
            }
            let image = dir.path().join("vmlinux");
            fs::write(&image, elf::tests::kernel(18, b"Xen\0")).unwrap();
            let agent = dir.path().join("agent");
            fs::write(&agent, elf::tests::kernel(1, b"Any\0")).unwrap();
            let request = Request {
                kernel: KernelChoice::Given(Source::tree(image, modules, dir.path())),
                agent,
                name: crate::store::DEFAULT.into(),
                force: false,
            };
            Place { dir, request }
        }

        fn store(&self) -> Store {
            Store::at(self.dir.path().join("store"))
        }

        fn build(&self) -> Result<Built> {
            build(&self.store(), &self.request, &Watch::default())
        }

        fn left(&self) -> Vec<String> {
            let entries = fs::read_dir(self.store().dir()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    #[test]
    fn a_second_build_does_nothing_and_the_image_is_the_default() {
        let place = Place::new();
        assert_eq!(place.store().default().unwrap_err().kind(), Kind::NotFound);
        let first = place.build().unwrap();
        assert!(first.fresh);
        assert_eq!(first.image.manifest.release, "6.1.0");
        let built_in = "virtiofs";
        assert!(first.image.manifest.modules.iter().all(|name| name != built_in));
        assert_eq!(first.image.manifest.modules.len(), WANTED.len() - 1);
        assert_eq!(place.store().default().unwrap().dir, first.image.dir);

        let watch = Watch::default();
        let second = build(&place.store(), &place.request, &watch).unwrap();
        assert!(!second.fresh && watch.steps.borrow().is_empty());
        assert_eq!(place.store().list().unwrap()[0].1, ["default"]);
    }

    #[test]
    fn another_agent_makes_another_image_and_the_same_content_does_not() {
        let place = Place::new();
        let first = place.build().unwrap().image;
        let agent = fs::read(&place.request.agent).unwrap();
        fs::write(&place.request.agent, [&agent[..], b"more"].concat()).unwrap();
        let second = place.build().unwrap();
        assert!(second.fresh && second.image.manifest.key != first.manifest.key);
        fs::write(&place.request.agent, agent).unwrap();
        let third = place.build().unwrap();
        assert!(!third.fresh);
        assert_eq!(third.image.manifest.key, first.manifest.key);
        assert_eq!(place.store().default().unwrap().manifest.key, first.manifest.key);
    }

    #[test]
    fn a_damaged_image_is_noticed_and_built_again() {
        let place = Place::new();
        let image = place.build().unwrap().image;
        fs::write(&image.kernel, "short").unwrap();
        let error = place.store().default().unwrap_err().chain();
        assert!(error.contains("5 bytes instead of"), "{error}");
        assert!(place.build().unwrap().fresh);
        let whole = fs::read(&image.initramfs).unwrap();
        fs::write(&image.initramfs, vec![0; whole.len()]).unwrap();
        assert!(place.store().default().unwrap_err().chain().contains("hash"));
        assert!(place.build().unwrap().fresh);
        assert!(fs::read(&image.initramfs).unwrap() == whole);
        place.store().default().unwrap().check(true).unwrap();
    }

    #[test]
    fn a_build_that_fails_or_is_stopped_leaves_nothing() {
        let mut place = Place::new();
        for stop in ["read the kernel", "expand kernel", "write the initramfs"] {
            let watch = Watch {
                stop_at: Some(stop),
                ..Watch::default()
            };
            assert!(build(&place.store(), &place.request, &watch).is_err());
            assert_eq!(place.left(), [".lock"], "{stop}");
        }
        // What a killed build left goes with the next one.
        fs::create_dir(place.store().dir().join(".new")).unwrap();
        fs::write(place.dir.path().join("6.1.0/kernel/overlay.ko"), b"no module").unwrap();
        assert!(place.build().is_err());
        assert_eq!(place.left(), [".lock"]);
        place.request.name = "../x".into();
        assert_eq!(place.build().unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let place = Place::new();
        let other = elf::tests::module(&["depends=", "vermagic=6.1.1 SMP"]);
        fs::write(place.dir.path().join("6.1.0/kernel/overlay.ko"), other).unwrap();
        let error = place.build().unwrap_err().chain();
        assert!(error.contains("overlay is for 6.1.1, not for 6.1.0"), "{error}");
    }

    #[test]
    fn an_image_can_be_written_elsewhere_and_removed() {
        let place = Place::new();
        let out = place.dir.path().join("out");
        let image = export(&out, &place.request, &Watch::default()).unwrap();
        image.check(true).unwrap();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
        let store = place.store();
        let key = place.build().unwrap().image.manifest.key;
        assert_eq!(store.image(&key[..8]).unwrap().manifest.key, key);
        store.remove(&key[..8]).unwrap();
        assert_eq!(place.left(), [".lock"]);
        assert_eq!(store.remove_all().unwrap(), 0);
    }
}
