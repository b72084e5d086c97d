// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which kernel modules the guest loads, and in which order. Dependencies are read from the modules themselves:
//! packages carry no modules.dep (depmod writes it at installation).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};

use crate::compression;
use crate::elf;

/// What the guest needs beyond the kernel, most urgent first: the transports, the agent's line to the host, the
/// container's files, what containers themselves mount, their network, and giving memory back.
pub const WANTED: [&str; 7] = [
    "virtio_mmio",
    "virtio_pci",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "overlay",
    "virtio_net",
    "virtio_balloon",
];

/// What the guest loads when it is needed, where the kernel has it: block devices, memory that is added to a running machine, and root
/// file systems that only read.
pub const LATER: [&str; 4] = ["virtio_blk", "dax_hmem", "kmem", "erofs"];

/// No module is larger than this when expanded.
const LIMIT: usize = 64 << 20;

/// The modules that come with a kernel.
#[derive(Debug, Default)]
pub struct Modules {
    files: BTreeMap<String, Origin>,
    builtin: BTreeSet<String>,
}

/// Where a module's bytes are.
#[derive(Debug)]
enum Origin {
    Path(PathBuf),
    Packed(Vec<u8>),
}

/// A module, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The kernel release that it was built for.
    pub release: String,
    /// The ELF file.
    pub content: Vec<u8>,
}

/// The name of the module in the file `path`: without directory, `.ko` and the suffix of a compression, with
/// underscores. `None` if it is no module.
fn name_of(path: &Path) -> Option<String> {
    let (name, suffix) = path.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"]
        .contains(&suffix)
        .then(|| name.replace('-', "_"))
}

/// Without the signature behind the ELF file: the guest boots what we give it, and checking twelve signatures costs an emulated
/// guest 80 ms. A kernel that insists on them says so when the image is tried.
fn unsigned(mut content: Vec<u8>) -> Vec<u8> {
    // Linux, include/linux/module_signature.h: signature, 12 bytes of which the last 4 are its length, magic.
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    const INFO: usize = 12;
    if let Some(rest) = content.strip_suffix(MAGIC)
        && let Some((_, length)) = rest.split_last_chunk::<4>()
        && let Ok(length) = usize::try_from(u32::from_be_bytes(*length))
        && let Some(end) = rest.len().checked_sub(INFO).and_then(|end| end.checked_sub(length))
    {
        content.truncate(end);
    }
    content
}

impl Modules {
    /// The modules below `dir`, which is a `/lib/modules/RELEASE`.
    pub fn below(dir: &Path) -> Result<Modules> {
        let mut modules = Modules::default();
        let builtin = dir.join("modules.builtin");
        let text = fs::read_to_string(&builtin).attempt(|| format!("read {}", builtin.display()))?;
        modules.add_builtin(&text);
        let mut pending = vec![dir.join("kernel")];
        while let Some(dir) = pending.pop() {
            let tried = || format!("list {}", dir.display());
            for entry in fs::read_dir(&dir).attempt(tried)? {
                let entry = entry.attempt(tried)?;
                let path = entry.path();
                if entry.file_type().attempt(tried)?.is_dir() {
                    pending.push(path);
                } else if let Some(name) = name_of(&path) {
                    modules.files.insert(name, Origin::Path(path));
                }
            }
        }
        Ok(modules)
    }

    /// Whether there is no loadable module.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a module out of a package; other files are ignored.
    pub(crate) fn add(&mut self, path: &Path, content: Vec<u8>) {
        if let Some(name) = name_of(path) {
            self.files.insert(name, Origin::Packed(content));
        }
    }

    /// Adds what is built into the kernel: the text of `modules.builtin`.
    pub(crate) fn add_builtin(&mut self, text: &str) {
        let names = text.lines().filter_map(|line| name_of(Path::new(line)));
        self.builtin.extend(names);
    }

    /// `wanted` and all that they depend on, each behind its dependencies, without what is built in.
    pub fn resolve(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|name| !self.builtin.contains(**name) && !self.files.contains_key(**name))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the kernel has no module {}, built in or loadable", missing.join(", ")),
            ));
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Those of `later` that the kernel has as modules, each behind what it depends on beyond `loaded`.
    pub fn resolve_later(&self, later: &[&str], loaded: &[Module]) -> Result<Vec<Vec<Module>>> {
        let mut all = Vec::new();
        for name in later {
            let mut order = Vec::new();
            if self.builtin.contains(*name) || self.files.contains_key(*name) {
                let mut seen = loaded.iter().map(|module| module.name.clone()).collect();
                self.visit(name, &mut seen, &mut order)?;
            } else {
                log::info!("the kernel has no module {name}: guests do without");
            }
            if !order.is_empty() {
                all.push(order);
            }
        }
        Ok(all)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let content = self.content(name)?;
        let content = unsigned(content);
        let modinfo = elf::modinfo(&content).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("module {name} is no ELF file with a .modinfo section"),
            )
        })?;
        for soft in &modinfo.soft {
            if self.files.contains_key(soft) {
                self.visit(soft, seen, order)?;
            }
        }
        for dependency in &modinfo.depends {
            self.visit(dependency, seen, order)
                .attempt(|| format!("load what module {name} depends on"))?;
        }
        order.push(Module {
            name: name.to_owned(),
            release: modinfo.release,
            content,
        });
        Ok(())
    }

    fn content(&self, name: &str) -> Result<Vec<u8>> {
        let read;
        let bytes = match self.files.get(name) {
            None => return Err(Error::new(Kind::NotFound, format!("the kernel has no module {name}"))),
            Some(Origin::Packed(bytes)) => bytes,
            Some(Origin::Path(path)) => {
                read = fs::read(path).attempt(|| format!("read module {}", path.display()))?;
                &read
            }
        };
        if elf::is_elf(bytes) {
            return Ok(bytes.clone());
        }
        compression::expand(bytes, LIMIT).attempt(|| format!("expand module {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::module;

    fn kernel() -> Modules {
        let mut modules = Modules::default();
        modules.add_builtin("kernel/fs/fuse/fuse.ko\nkernel/drivers/virtio/virtio-ring.ko\n");
        for (file, entries) in [
            ("kernel/a/virtio-pci.ko", &["depends=virtio_ring,virtio,legacy"][..]),
            ("kernel/a/virtio.ko.zst", &["depends="]),
            ("kernel/a/legacy.ko", &["depends=virtio"]),
            (
                "kernel/a/virtiofs.ko.xz",
                &["depends=fuse,virtio", "softdep=pre: extra absent"],
            ),
            ("kernel/a/extra.ko", &["depends="]),
            ("kernel/a/broken.ko", &["depends=gone"]),
            ("kernel/a/loop1.ko", &["depends=loop2"]),
            ("kernel/a/loop2.ko", &["depends=loop1"]),
        ] {
            let content = match Path::new(file).extension().unwrap().to_str().unwrap() {
                "zst" => zstd::encode_all(&module(entries)[..], 1).unwrap(),
                _ => module(entries),
            };
            modules.add(Path::new(file), content);
        }
        modules.add(Path::new("kernel/a/README.kohl"), vec![]);
        modules
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_first_and_once_and_without_what_is_built_in() {
        let order = kernel().resolve(&["virtio_pci", "virtiofs", "fuse"]).unwrap();
        assert_eq!(names(&order), ["virtio", "legacy", "virtio_pci", "extra", "virtiofs"]);
        assert!(order.iter().all(|module| elf::is_elf(&module.content)));
        assert_eq!(kernel().resolve(&["loop1"]).unwrap().len(), 2);
    }

    #[test]
    fn a_signature_is_left_out() {
        let plain = b"ELF and so on".to_vec();
        let signature = [
            &[7; 40][..],
            &[0; 8],
            &40_u32.to_be_bytes(),
            b"~Module signature appended~\n",
        ]
        .concat();
        let signed = [&plain[..], &signature].concat();
        assert_eq!(unsigned(signed.clone()), plain);
        assert_eq!(unsigned(plain.clone()), plain);
        let half = signed[plain.len() + 20..].to_vec();
        assert_eq!(unsigned(half.clone()), half, "longer than the file");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = kernel().resolve(&["virtio", "nope", "nada"]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("nope, nada"), "{}", error.chain());
        let error = kernel().resolve(&["broken"]).unwrap_err().chain();
        assert!(error.contains("broken") && error.contains("gone"), "{error}");
        assert!(!kernel().files.contains_key("README"));
    }

    #[test]
    fn an_installed_tree_is_read() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("kernel/drivers")).unwrap();
        assert!(Modules::below(top.path()).is_err());
        fs::write(top.path().join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        fs::write(top.path().join("kernel/drivers/my-mod.ko"), module(&["depends="])).unwrap();
        let modules = Modules::below(top.path()).unwrap();
        assert_eq!(names(&modules.resolve(&["ext4", "my_mod"]).unwrap()), ["my_mod"]);
    }
}
