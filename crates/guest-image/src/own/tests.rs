// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The whole way of a kernel from a tree to the store, with a tree whose Makefile only pretends to compile.

use std::cell::RefCell;
use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::elf;
use crate::store::Store;

/// What the Makefile does in place of a kernel's. `$(O)` and the targets are those of kbuild.
const MAKEFILE: &str = "VERSION = 6
PATCHLEVEL = 12
allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) $(O)/.config
olddefconfig:
\t@true
vmlinux:
\tcp vmlinux.elf $(O)/vmlinux
\tfor name in fs/fuse/virtiofs fs/overlayfs/overlay drivers/virtio/virtio_pci drivers/virtio/virtio_mmio \\
\t  net/vmw_vsock/vmw_vsock_virtio_transport drivers/net/virtio_net \\
\t  drivers/virtio/virtio_balloon; do echo kernel/$$name.ko; done > $(O)/modules.builtin
kernelrelease:
\tmkdir -p $(O)/include/config
\techo 6.12.0-kata > $(O)/include/config/kernel.release
\tenv | sort > $(O)/../../../environment
";

/// A program that `strip` takes, with the note of a kernel that boots through PVH.
const KERNEL_SOURCE: &str = r#"
    .section .note.Xen, "a", @note
    .long 4, 8, 18
    .asciz "Xen"
    .quad 0x1000000
    .text
    .globl _start
_start: ret
"#;

#[derive(Default)]
struct Watch {
    steps: RefCell<Vec<String>>,
    /// Checks fail in the step that this is part of.
    stop_in: Option<&'static str>,
}

impl Progress for Watch {
    fn step(&self, what: &str) -> Result<()> {
        self.steps.borrow_mut().push(what.to_owned());
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let steps = self.steps.borrow();
        match (self.stop_in, steps.last()) {
            (Some(stop), Some(step)) if step.contains(stop) => Err(Error::new(Kind::State, "interrupted")),
            _ => Ok(()),
        }
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(place.tree()).unwrap();
        place.makefile(MAKEFILE);
        let mut kconfig = String::new();
        for line in FRAGMENT.lines() {
            let option = line.trim_start_matches("# ").strip_prefix("CONFIG_");
            let option = option.and_then(|rest| rest.split(['=', ' ']).next());
            if let Some(option) = option {
                writeln!(kconfig, "config {option}").unwrap();
            }
        }
        fs::write(place.tree().join("Kconfig"), kconfig).unwrap();
        let source = place.dir.path().join("kernel.s");
        fs::write(&source, KERNEL_SOURCE).unwrap();
        let mut gcc = std::process::Command::new("gcc");
        gcc.args(["-nostdlib", "-static", "-o"])
            .arg(place.tree().join("vmlinux.elf"));
        assert!(gcc.arg(&source).status().unwrap().success());
        place
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn makefile(&self, text: &str) {
        fs::write(self.tree().join("Makefile"), text).unwrap();
    }

    fn kernels(&self) -> Kernels {
        Kernels::of(&Store::at(self.dir.path().join("store")))
    }

    fn recipe(&self, fragment: &str) -> Result<Recipe> {
        let mut all = Fragment::parse(FRAGMENT, FRAGMENT_NAME, false)?;
        all.over(Fragment::parse(fragment, "my.config", true)?);
        Ok(Recipe {
            source: Origin::Directory(self.tree()).fetch(&Watch::default())?,
            toolchain: Toolchain {
                compiler: "gcc 1".into(),
                linker: "ld 1".into(),
            },
            fragment: all,
            fragments: Vec::new(),
            jobs: 2,
            epoch: Some(1_000_000_000),
        })
    }

    fn make(&self, fragment: &str, watch: &Watch) -> Result<(OwnKernel, bool)> {
        self.recipe(fragment)?
            .make(&self.kernels(), &self.dir.path().join("workshop"), false, watch)
    }

    /// What is in the workshop and on the shelf but their locks.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in [self.dir.path().join("workshop"), self.kernels().dir().to_owned()] {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.file_name().into_string().unwrap()));
        }
        left.retain(|name| name != ".lock");
        left
    }
}

#[test]
fn our_configuration_is_sound() {
    let fragment = Fragment::parse(FRAGMENT, FRAGMENT_NAME, false).unwrap();
    let text = fragment.text();
    let named = FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_") && line.ends_with(" is not set"));
    assert_eq!(named.count(), text.lines().count(), "no option is named twice");
    assert!(options::missing(&text).is_empty());
    assert!(options::missing_of(&DRIVERS, &text).is_empty());
}

#[test]
fn a_tree_becomes_a_kernel_with_papers_once() {
    let place = Place::new();
    let watch = Watch::default();
    let (kernel, fresh) = place.make("CONFIG_NR_CPUS=8\n", &watch).unwrap();
    assert!(fresh);
    let manifest = &kernel.manifest;
    assert_eq!(
        (manifest.release.as_str(), manifest.epoch),
        ("6.12.0-kata", 1_000_000_000)
    );
    assert_eq!(manifest.compiler, "gcc 1");
    let config = fs::read_to_string(kernel.dir.join(CONFIG)).unwrap();
    assert!(config.contains("CONFIG_NR_CPUS=8\n") && !config.contains("CONFIG_NR_CPUS=256"));
    assert_eq!(manifest.config, digest::of(config.as_bytes()));
    assert_eq!(KernelManifest::read(&kernel.dir).unwrap(), *manifest);
    kernel.check(true).unwrap();
    // It loads as other kernels do, without a module.
    let loaded = crate::Source::Own(kernel.dir.clone()).load().unwrap();
    loaded.check().unwrap();
    assert!(loaded.modules.resolve(&WANTED).unwrap().is_empty());
    elf::pvh_entry(&loaded.image).unwrap();

    let (again, fresh) = place.make("CONFIG_NR_CPUS=8\n", &Watch::default()).unwrap();
    assert!(!fresh && again == kernel);
    let (other, fresh) = place.make("CONFIG_NR_CPUS=9\n", &Watch::default()).unwrap();
    assert!(fresh && other.manifest.config != manifest.config);
    // The last one is the one that is meant; going back is cheap.
    assert_eq!(place.kernels().find(None).unwrap(), other);
    assert!(!place.make("CONFIG_NR_CPUS=8\n", &Watch::default()).unwrap().1);
    assert_eq!(place.kernels().find(None).unwrap(), kernel);
    assert_eq!(place.kernels().list().unwrap().len(), 2);
    place.kernels().remove(&kernel.manifest.key[..9]).unwrap();
    assert!(place.kernels().find(None).is_err());
    assert_eq!(place.left(), [other.manifest.key]);
}

#[test]
fn the_builders_environment_does_not_matter() {
    let place = Place::new();
    // Cargo has set variables that no kernel should see.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    place.make("", &Watch::default()).unwrap();
    let seen = fs::read_to_string(place.dir.path().join("environment")).unwrap();
    assert!(!seen.contains("CARGO"), "{seen}");
    assert!(
        seen.contains("KBUILD_BUILD_TIMESTAMP=Sun Sep  9 01:46:40 UTC 2001\n"),
        "{seen}"
    );
    assert!(seen.contains("SOURCE_DATE_EPOCH=1000000000\n"), "{seen}");
}

#[test]
fn a_damaged_kernel_is_made_anew() {
    let place = Place::new();
    let (kernel, _) = place.make("", &Watch::default()).unwrap();
    let path = kernel.dir.join(KERNEL);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, vec![0; whole.len()]).unwrap();
    let error = kernel.check(false).unwrap_err().chain();
    assert!(error.contains("run `kata guest kernel --force`"), "{error}");
    assert!(place.make("", &Watch::default()).unwrap().1);
    assert_eq!(fs::read(&path).unwrap(), whole, "byte by byte");
}

#[test]
fn what_the_kernels_rules_refuse_is_named_before_anything_is_compiled() {
    let place = Place::new();
    // This kernel has other ideas, and does not know one option of ours.
    let rules = "\tsed -e s/CONFIG_OVERLAY_FS=y/CONFIG_OVERLAY_FS=m/ -e /CONFIG_PSI=/d -e /CONFIG_VETH=/d -e /TYPO/d $(KCONFIG_ALLCONFIG) > $(O)/.config";
    place.makefile(&MAKEFILE.replace("\tcp $(KCONFIG_ALLCONFIG) $(O)/.config", rules));
    let kconfig = fs::read_to_string(place.tree().join("Kconfig")).unwrap();
    fs::write(place.tree().join("Kconfig"), kconfig.replace("config PSI\n", "")).unwrap();
    let watch = Watch::default();
    let error = place.make("CONFIG_TYPO=y\n", &watch).unwrap_err().chain();
    for words in [
        "CONFIG_OVERLAY_FS=y (kata.config:",
        "is m",
        "CONFIG_VETH=y",
        "is off",
        "CONFIG_TYPO (my.config:1) does not exist",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!error.contains("CONFIG_PSI"), "{error}");
    assert!(!watch.steps.borrow().iter().any(|step| step.contains("compile")));
    assert!(place.left().is_empty(), "{:?}", place.left());
    // A user may turn off much, but not what the guest stands on.
    place.makefile(MAKEFILE);
    let error = place
        .make("# CONFIG_VIRTIO_FS is not set\n", &Watch::default())
        .unwrap_err()
        .chain();
    assert!(error.contains("CONFIG_VIRTIO_FS (the container's files)"), "{error}");
}

#[test]
fn a_failure_names_its_step_and_shows_what_was_said_last() {
    let place = Place::new();
    place.makefile(&MAKEFILE.replace(
        "\tcp vmlinux.elf",
        "\t@seq 100; echo main.c:7: no such thing >&2; exit 3\n\tcp vmlinux.elf",
    ));
    let error = place.make("", &Watch::default()).unwrap_err().chain();
    for words in ["compile the kernel", "main.c:7: no such thing", "\n  100\n"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!error.contains("\n  50\n"), "only the last lines: {error}");
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn an_interrupted_build_leaves_neither_files_nor_processes() {
    let place = Place::new();
    // A grandchild that goes on writing.
    let busy = "\tsh -c 'while :; do date > $(O)/busy; sleep 0.01; done' & echo $$! > $(O)/../../../pid; wait\n\tcp vmlinux.elf";
    place.makefile(&MAKEFILE.replace("\tcp vmlinux.elf", busy));
    let pid = place.dir.path().join("pid");
    thread::scope(|scope| {
        let build = scope.spawn(|| {
            struct Until<'a>(&'a Path);
            impl Progress for Until<'_> {
                fn step(&self, _: &str) -> Result<()> {
                    Ok(())
                }

                fn check(&self) -> Result<()> {
                    let is_busy = fs::read_to_string(self.0).is_ok_and(|text| text.ends_with('\n'));
                    if is_busy {
                        Err(Error::new(Kind::State, "interrupted"))
                    } else {
                        Ok(())
                    }
                }
            }
            let recipe = place.recipe("").unwrap();
            let workshop = place.dir.path().join("workshop");
            recipe.make(&place.kernels(), &workshop, false, &Until(&pid))
        });
        assert!(build.join().unwrap().unwrap_err().chain().contains("interrupted"));
    });
    assert!(place.left().is_empty(), "{:?}", place.left());
    let process = PathBuf::from(format!("/proc/{}/stat", fs::read_to_string(&pid).unwrap().trim()));
    let begin = Instant::now();
    // It may still wait for its parent to notice.
    while fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(begin.elapsed() < Duration::from_secs(60), "it still runs");
        thread::sleep(Duration::from_millis(5));
    }
    // Stopped earlier, there is nothing either.
    for stop_in in ["configure", "check the configuration", "strip"] {
        place.makefile(MAKEFILE);
        let watch = Watch {
            stop_in: Some(stop_in),
            ..Watch::default()
        };
        assert!(place.make("", &watch).is_err(), "{stop_in}");
        assert!(place.left().is_empty(), "{stop_in}: {:?}", place.left());
    }
}
