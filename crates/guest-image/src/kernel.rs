// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where a kernel comes from: one that is installed, Debian packages, one that we compiled, or files that the user names.
//! All of them become the same thing: an image, its configuration and its modules.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};

use crate::deb::{self, Package};
use crate::manifest::Input;
use crate::modules::{LATER, Modules, WANTED};
use crate::own::OwnKernel;
use crate::{bzimage, digest, options};

/// Older kernels lack what the agent expects (virtio-fs submounts, cgroup v2 features).
const OLDEST: [u64; 2] = [6, 1];

/// A place to take a kernel from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Package files that hold, together, one kernel.
    Packages(Vec<PathBuf>),
    /// A directory with a kernel that we compiled.
    Own(PathBuf),
    /// Files on disk.
    Tree {
        /// A bzImage or an ELF kernel.
        image: PathBuf,
        /// Its `/lib/modules/RELEASE`.
        modules: PathBuf,
        /// Its configuration, if there is one.
        config: Option<PathBuf>,
    },
}

/// A kernel with all that came with it.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// A bzImage or an ELF kernel.
    pub image: Vec<u8>,
    /// The text of its configuration file.
    pub config: Option<String>,
    /// Its modules.
    pub modules: Modules,
    /// The packages that it came in; none for files on disk.
    pub packages: Vec<Package>,
}

impl Source {
    /// The kernels installed below `root` that are new enough, best first: those made for virtual machines
    /// (`-cloud-`), then the newest.
    pub fn installed(root: &Path) -> Vec<Source> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for parent in ["usr/lib/modules", "lib/modules"] {
            let Ok(entries) = fs::read_dir(root.join(parent)) else {
                continue;
            };
            for modules in entries.flatten().map(|entry| entry.path()) {
                let Some(release) = modules.file_name().and_then(OsStr::to_str).map(str::to_owned) else {
                    continue;
                };
                let in_boot = root.join(format!("boot/vmlinuz-{release}"));
                let image = [in_boot, modules.join("vmlinuz")]
                    .into_iter()
                    .find(|path| path.is_file());
                if let Some(image) = image
                    && numbers(&release) >= OLDEST.to_vec()
                    && seen.insert(release.clone())
                {
                    let source = Source::tree(image, modules, root);
                    found.push((release.contains("-cloud-"), numbers(&release), source));
                }
            }
        }
        found.sort_by(|one, other| (other.0, &other.1).cmp(&(one.0, &one.1)));
        found.into_iter().map(|(_, _, source)| source).collect()
    }

    /// Named files. The configuration is looked for beside the image, in `modules` and in `root`/boot.
    pub fn tree(image: PathBuf, modules: PathBuf, root: &Path) -> Source {
        let release = modules.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let name = format!("config-{release}");
        let config = [
            image.with_file_name(&name),
            modules.join("config"),
            root.join("boot").join(&name),
        ]
        .into_iter()
        .find(|path| path.is_file());
        Source::Tree { image, modules, config }
    }

    /// What the kernel is made of, as content: equal inputs make equal guest images.
    pub(crate) fn inputs(&self) -> Result<Vec<Input>> {
        match self {
            Source::Packages(paths) => paths.iter().map(|path| Input::of_file(path)).collect(),
            Source::Own(dir) => {
                let files = OwnKernel::at(dir.clone())?.files();
                files.iter().map(|path| Input::of_file(path)).collect()
            }
            Source::Tree { image, modules, config } => {
                let mut inputs = vec![Input::of_file(image)?];
                if let Some(config) = config {
                    inputs.push(Input::of_file(config)?);
                }
                let all = Modules::below(modules)?;
                let wanted = all.resolve(&WANTED)?;
                let later = all.resolve_later(&LATER, &wanted)?;
                for module in wanted.into_iter().chain(later.into_iter().flatten()) {
                    inputs.push(Input {
                        path: modules.join(&module.name),
                        sha256: digest::of(&module.content),
                        size: u64::try_from(module.content.len()).unwrap_or(u64::MAX),
                    });
                }
                Ok(inputs)
            }
        }
    }

    /// Reads the kernel.
    pub fn load(&self) -> Result<Kernel> {
        match self {
            Source::Packages(paths) => Kernel::of_packages(paths),
            Source::Own(dir) => OwnKernel::at(dir.clone())?.load(),
            Source::Tree { image, modules, config } => {
                let bytes = fs::read(image).attempt(|| format!("read kernel {}", image.display()))?;
                let named = modules.file_name().and_then(OsStr::to_str).map(str::to_owned);
                let release = bzimage::release(&bytes)
                    .or(named)
                    .ok_or_else(|| Error::new(Kind::Invalid, format!("{} names no release", modules.display())))?;
                let config = match config {
                    None => None,
                    Some(path) => Some(fs::read_to_string(path).attempt(|| format!("read {}", path.display()))?),
                };
                Ok(Kernel {
                    release,
                    image: bytes,
                    config,
                    modules: Modules::below(modules)?,
                    packages: Vec::new(),
                })
            }
        }
    }
}

/// The numbers in a release, for comparison: `6.12.5+deb13-cloud` is 6, 12, 5, 13.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// What a file of a kernel package is to us.
enum Part {
    Image,
    Config,
    Builtin,
    Module,
}

/// Both layouts: `/boot/NAME-RELEASE` and all in `/usr/lib/modules/RELEASE`.
fn part(path: &Path) -> Option<Part> {
    let path = path.strip_prefix("usr").unwrap_or(path);
    let name = path.file_name()?.to_str()?;
    if path.parent() == Some(Path::new("boot")) {
        return match name.split_once('-')?.0 {
            "vmlinuz" => Some(Part::Image),
            "config" => Some(Part::Config),
            _ => None,
        };
    }
    let within: PathBuf = path.strip_prefix("lib/modules").ok()?.components().skip(1).collect();
    match within.to_str()? {
        "vmlinuz" => Some(Part::Image),
        "config" => Some(Part::Config),
        "modules.builtin" => Some(Part::Builtin),
        other => (other.starts_with("kernel/") && name.contains(".ko")).then_some(Part::Module),
    }
}

impl Kernel {
    fn of_packages(paths: &[PathBuf]) -> Result<Kernel> {
        let mut image = None;
        let mut config = None;
        let mut modules = Modules::default();
        let mut packages = Vec::new();
        for path in paths {
            let want = |path: &Path| part(path).is_some();
            let package = deb::read(path, &want, &mut |path, content| match part(path) {
                Some(Part::Image) => image = Some(content),
                Some(Part::Config) => config = Some(String::from_utf8_lossy(&content).into_owned()),
                Some(Part::Builtin) => modules.add_builtin(&String::from_utf8_lossy(&content)),
                Some(Part::Module) => modules.add(path, content),
                None => {}
            })?;
            if package.architecture != "amd64" && package.architecture != "all" {
                let reason = format!(
                    "package {} is for {}, not for amd64",
                    package.name, package.architecture
                );
                return Err(Error::new(Kind::Invalid, reason));
            }
            packages.push(package);
        }
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        let lacks = |what: &str| {
            let names = names.join(", ");
            let hint = "a kernel that is split (linux-base, linux-binary, linux-modules) needs all its packages";
            Error::new(Kind::Invalid, format!("no {what} in {names}; {hint}"))
        };
        let image = image.ok_or_else(|| lacks("kernel image"))?;
        if modules.is_empty() {
            return Err(lacks("kernel modules"));
        }
        let release = bzimage::release(&image).ok_or_else(|| lacks("kernel image that names its release"))?;
        Ok(Kernel {
            release,
            image,
            config,
            modules,
            packages,
        })
    }

    /// Whether the guest can run on it; [`Kind::Unsupported`] with all that is missing.
    pub fn check(&self) -> Result<()> {
        if numbers(&self.release) < OLDEST.to_vec() {
            let reason = format!("kernel {} is older than {}.{}", self.release, OLDEST[0], OLDEST[1]);
            return Err(Error::new(Kind::Unsupported, reason));
        }
        let Some(config) = &self.config else { return Ok(()) };
        let missing = options::missing(config);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unsupported,
            format!("kernel {} was built without {}", self.release, missing.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, release: &str) {
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::create_dir_all(root.join("lib/modules").join(release)).unwrap();
        fs::write(root.join(format!("boot/vmlinuz-{release}")), "").unwrap();
    }

    #[test]
    fn cloud_kernels_come_first_then_the_newest_and_never_an_old_one() {
        let root = tempfile::tempdir().unwrap();
        for release in [
            "6.1.0-9-cloud-amd64",
            "6.1.0-10-cloud-amd64",
            "6.12.1-amd64",
            "5.10.0-1-cloud-amd64",
        ] {
            install(root.path(), release);
        }
        fs::create_dir_all(root.path().join("lib/modules/6.5.0-without-image")).unwrap();
        let split = root.path().join("usr/lib/modules/7.2.0-amd64");
        fs::create_dir_all(&split).unwrap();
        fs::write(split.join("vmlinuz"), "").unwrap();
        let found: Vec<String> = Source::installed(root.path())
            .iter()
            .map(|source| match source {
                Source::Tree { modules, .. } => modules.file_name().unwrap().to_str().unwrap().to_owned(),
                Source::Packages(_) | Source::Own(_) => unreachable!(),
            })
            .collect();
        assert_eq!(
            found,
            [
                "6.1.0-10-cloud-amd64",
                "6.1.0-9-cloud-amd64",
                "7.2.0-amd64",
                "6.12.1-amd64"
            ]
        );
    }

    #[test]
    fn a_package_without_a_kernel_says_what_else_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        fs::write(&path, deb::tests::package("linux-image-7", &[("usr/share/doc/x", b"")])).unwrap();
        let error = Source::Packages(vec![path]).load().unwrap_err().chain();
        assert!(
            error.contains("no kernel image in linux-image-7") && error.contains("linux-modules"),
            "{error}"
        );
    }

    #[test]
    fn both_package_layouts_are_known() {
        let is = |path: &str| part(Path::new(path)).is_some();
        assert!(is("boot/vmlinuz-6.1") && is("boot/config-6.1") && is("lib/modules/6.1/modules.builtin"));
        assert!(is("usr/lib/modules/7.2/vmlinuz") && is("usr/lib/modules/7.2/kernel/fs/a.ko.xz"));
        assert!(!is("boot/System.map-6.1") && !is("usr/lib/modules/7.2/System.map") && !is("usr/share/doc/vmlinuz"));
    }

    #[test]
    fn an_old_or_poor_kernel_is_refused_with_the_list() {
        let mut kernel = Kernel {
            release: "5.10.0".into(),
            image: Vec::new(),
            config: None,
            modules: Modules::default(),
            packages: Vec::new(),
        };
        assert!(kernel.check().unwrap_err().chain().contains("older than 6.1"));
        kernel.release = "6.1.0".into();
        kernel.check().unwrap();
        kernel.config = Some("CONFIG_PVH=y\n".into());
        let error = kernel.check().unwrap_err().chain();
        assert!(
            error.contains("CONFIG_MEMCG (memory limits)") && !error.contains("CONFIG_PVH "),
            "{error}"
        );
    }
}
