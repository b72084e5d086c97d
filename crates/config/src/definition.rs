// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The keys: name, type, default, what is asked of a value, and what it is for. A new key is a few lines here and whoever reads its
//! field; documentation, `kata config show` and checks follow.

use std::path::PathBuf;
use std::time::Duration;

use crate::value::{Item, Rule, Setting};

/// A key, for whoever reads, shows or documents all of them.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// With its section: `machine.vcpus`.
    pub name: &'static str,
    /// Lines of what it is for.
    pub doc: &'static [&'static str],
    pub rule: Rule,
    /// The variable that goes before the files.
    pub variable: Option<&'static str>,
}

impl Key {
    /// Its section, and its name in it.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// A table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    pub name: &'static str,
    pub doc: &'static [&'static str],
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty = $default:expr, $rule:expr $(, $variable:literal)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }

            impl Default for $Section {
                fn default() -> $Section {
                    $Section { $( $key: $default, )+ }
                }
            }
        )+

        /// All of it, by sections.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $Section, )+
        }

        /// The sections, in their order.
        pub const SECTIONS: &[Section] = &[
            $( Section { name: stringify!($section), doc: &[$($section_doc),+] }, )+
        ];

        /// The keys, in their order.
        pub const KEYS: &[Key] = &[
            $( $( Key {
                name: concat!(stringify!($section), ".", stringify!($key)),
                doc: &[$($doc),+],
                rule: $rule,
                variable: settings!(@variable $($variable)?),
            }, )+ )+
        ];

        impl Config {
            /// The value of a key; none where nothing is set.
            pub fn get(&self, name: &str) -> Option<Item> {
                $( $(
                    if name == concat!(stringify!($section), ".", stringify!($key)) {
                        return Setting::item(&self.$section.$key);
                    }
                )+ )+
                None
            }

            /// Gives a key a value. Errors: what is wrong with it, for people.
            pub fn set(&mut self, key: &Key, item: &Item) -> Result<(), String> {
                key.rule.check(item)?;
                let other = || format!("{} is none for this key", item.toml());
                $( $(
                    if key.name == concat!(stringify!($section), ".", stringify!($key)) {
                        self.$section.$key = Setting::read(item).ok_or_else(other)?;
                    }
                )+ )+
                Ok(())
            }
        }
    };
    (@variable) => { None };
    (@variable $variable:literal) => { Some($variable) };
}

/// Two hours.
const LONGEST: u32 = 7200;
const SECONDS: Rule = Rule::Number(1, LONGEST, "seconds");
const VCPUS: Rule = Rule::Number(1, 1024, "");
const MEMORY: Rule = Rule::Number(1, 16 << 20, "MiB");

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

settings! {
    /// Which hypervisor runs machines.
    hypervisor: Hypervisor {
        /// `auto` takes the best that works here; `kata doctor` says which and why. `qemu` leaves open whether with KVM.
        name: String = "auto".into(), Rule::Name;
        /// Its executable, in place of the one that is found.
        path: Option<PathBuf> = None, Rule::Path;
        /// How long it may take to answer on its control channel.
        timeout: Duration = Duration::from_secs(30), SECONDS;
    }
    /// How large machines are. Where containers or their pod have limits, these decide instead.
    machine: Machine {
        /// Virtual CPUs of a machine whose containers have no limit of processors.
        vcpus: u32 = 1, VCPUS;
        /// Memory of a machine whose containers have no limit of memory. What a guest does not touch costs the host nothing.
        memory: u32 = 2048, MEMORY;
        /// Virtual CPUs to which a machine can grow, where the host has so many. Not set: four times what it begins with, and eight at least.
        max_vcpus: Option<u32> = None, VCPUS;
        /// Memory to which a machine can grow, where the host has so much. Not set: four times what it begins with, and 8192 at least.
        max_memory: Option<u32> = None, MEMORY;
        /// How many machines are brought up at once on this host; 0: any number. Not set: as many as it has processors, and two at least.
        starts: Option<u32> = None, Rule::Number(0, 4096, "");
    }
    /// The kernel and the image that machines boot.
    guest: Guest {
        /// Which image of the store; `kata guest ls` lists them.
        image: String = "default".into(), Rule::Name;
        /// An uncompressed kernel in place of the image's.
        kernel: Option<PathBuf> = None, Rule::Path;
        /// An initramfs with the agent in place of the image's.
        initrd: Option<PathBuf> = None, Rule::Path;
        /// Added to the kernel's command line.
        kernel_params: String = String::new(), Rule::Line;
        /// How long a guest may take to come up.
        boot_timeout: Duration = Duration::from_secs(60), SECONDS;
        /// The store of images and of kernels that were compiled.
        directory: PathBuf = "/var/lib/kata/guest".into(), Rule::Path, "KATA_GUEST_DIR";
        /// The agent's program that `kata guest build` puts into images. Not set: the one that is installed beside kata.
        agent: Option<PathBuf> = None, Rule::Path, "KATA_AGENT";
    }
    /// The process in the guest that makes containers.
    agent: Agent {
        /// How long it may take to answer a call.
        timeout: Duration = Duration::from_secs(60), SECONDS;
    }
    /// Frozen guests, of which machines begin as copies.
    template: Template {
        /// Whether machines begin as copies, and the template that one lacks is made.
        enable: bool = true, Rule::Truth;
        /// How long a guest that is to be frozen may take to boot.
        boot_timeout: Duration = Duration::from_secs(120), SECONDS;
        /// Where they are kept.
        directory: PathBuf = "/var/lib/kata/templates".into(), Rule::Path, "KATA_TEMPLATE_DIR";
    }
    /// Machines that wait for their containers (`kata standby`).
    standby: Standby {
        /// How many, where `kata standby start` is not told.
        count: u32 = 1, Rule::Number(1, 256, "");
        /// Their virtual CPUs. Not set: those of a container without limits.
        vcpus: Option<u32> = None, VCPUS;
        /// Their memory. Not set: that of a container without limits.
        memory: Option<u32> = None, MEMORY;
        /// Where they wait.
        directory: PathBuf = "/run/kata-standby".into(), Rule::Path, "KATA_STANDBY_DIR";
    }
    /// The OCI command line, `kata-runtime`.
    runtime: Runtime {
        /// Where the state of containers is, if --root does not say.
        root: PathBuf = "/run/kata".into(), Rule::Path, "KATA_RUN_DIR";
        /// Specs name control groups as systemd does (slice:prefix:name), also without --systemd-cgroup.
        systemd_cgroup: bool = false, Rule::Truth;
    }
    /// `kata run` and its companions.
    run: Run {
        /// The network of containers where --network does not say: `user` (passt) or `none`. Not set: user where passt is installed.
        network: Option<String> = None, Rule::OneOf(&["user", "none"]);
        /// The program behind networks of users. Not set: the passt that is found.
        passt: Option<PathBuf> = None, Rule::Path;
        /// Where containers are kept.
        directory: PathBuf = "/var/lib/kata/containers".into(), Rule::Path, "KATA_STATE_DIR";
        /// Where images are kept.
        images: PathBuf = "/var/lib/kata/images".into(), Rule::Path, "KATA_IMAGE_DIR";
    }
    /// What is logged, where the command line does not say.
    log: Log {
        /// Also what only developers read.
        debug: bool = false, Rule::Truth;
        /// How lines look.
        format: String = "text".into(), Rule::OneOf(&["text", "json"]);
        /// Where `kata-runtime` and its processes log, if --log does not say. Not set: to standard error.
        file: Option<PathBuf> = None, Rule::Path;
    }
    /// What containers may change by annotations (`io.katacontainers.config.GROUP.NAME`), which engines hand on from their users.
    annotations: Annotations {
        /// Regular expressions; each must match all of NAME, or of GROUP.NAME. `.*` allows all.
        enable_annotations: Vec<String> = words(&[
            "enable_iommu", "kernel_params", "kernel_verity_params", "default_vcpus", "default_memory",
            "enable_template", "hypervisor_name", "create_container_timeout", "kernel", "initrd", "path",
        ]), Rule::Patterns;
        /// What the annotation `hypervisor.path` may name: `*` stays within a directory, `**` does not.
        valid_hypervisor_paths: Vec<String> = words(&[
            "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm",
        ]), Rule::Globs;
        /// What the annotations `hypervisor.kernel` and `hypervisor.initrd` may name, beside the store of images.
        valid_kernel_paths: Vec<String> = words(&["/boot/*", "/usr/share/kata/**", "/usr/local/share/kata/**"]), Rule::Globs;
    }
}

/// The key of this name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_values_that_are_allowed() {
        let config = Config::default();
        for key in KEYS {
            if let Some(item) = config.get(key.name) {
                key.rule
                    .check(&item)
                    .unwrap_or_else(|why| panic!("{}: {why}", key.name));
            }
        }
    }

    #[test]
    fn each_key_reads_what_it_writes() {
        for key in KEYS {
            let mut config = Config::default();
            let item = match key.rule {
                Rule::Truth => Item::Truth(false),
                Rule::Number(_, most, _) => Item::Whole(most.into()),
                rule => rule.example(),
            };
            config
                .set(key, &item)
                .unwrap_or_else(|why| panic!("{}: {why}", key.name));
            assert_eq!(config.get(key.name), Some(item), "{}", key.name);
            assert!(SECTIONS.iter().any(|section| section.name == key.parts().0));
            let wrong = Item::List(vec!["(".into()]);
            assert!(config.set(key, &wrong).is_err(), "{}", key.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        assert!(key("machine.vcpus").is_some() && key("machine.none").is_none());
    }
}
