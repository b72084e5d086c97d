// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which annotations containers may have: the names that are known, and whether a configuration lets them through. What they do is
//! none of this module's business.

use std::path::Path;

use base::{Context, Error, Kind, Result};
use glob::{MatchOptions, Pattern};
use regex_lite::Regex;

use crate::Config;

/// Before the group and the name.
pub const PREFIX: &str = "io.katacontainers.config.";

/// Those that change something here.
pub const EFFECTIVE: [&str; 11] = [
    "hypervisor.default_max_vcpus",
    "hypervisor.default_maxmemory",
    "hypervisor.default_memory",
    "hypervisor.default_vcpus",
    "hypervisor.enable_template",
    "hypervisor.initrd",
    "hypervisor.kernel",
    "hypervisor.kernel_params",
    "hypervisor.path",
    "runtime.create_container_timeout",
    "runtime.hypervisor_name",
];

/// Kata's others.
const OTHERS: [(&str, &[&str]); 3] = [
    (
        "hypervisor",
        &[
            "asset_hash_type",
            "blk_logical_sector_size",
            "blk_physical_sector_size",
            "block_device_cache_direct",
            "block_device_cache_noflush",
            "block_device_cache_set",
            "block_device_driver",
            "block_device_num_queues",
            "block_device_queue_size",
            "cc_init_data",
            "cold_plug_vfio",
            "cpu_features",
            "ctlpath",
            "default_gpu_model",
            "default_gpus",
            "disable_block_device_use",
            "disable_image_nvdimm",
            "disable_vhost_net",
            "enable_guest_swap",
            "enable_hugepages",
            "enable_iommu",
            "enable_iommu_platform",
            "enable_iothreads",
            "enable_mem_prealloc",
            "enable_swap",
            "enable_vhost_user_store",
            "enable_virtio_mem",
            "entropy_source",
            "file_mem_backend",
            "firmware",
            "firmware_hash",
            "firmware_volume",
            "guest_hook_path",
            "hot_plug_vfio",
            "hugepage_type",
            "image",
            "image_hash",
            "indep_iothreads",
            "initrd_hash",
            "jailer_hash",
            "jailer_path",
            "kernel_hash",
            "kernel_verity_params",
            "machine_accelerators",
            "machine_type",
            "memory_offset",
            "memory_slots",
            "msize_9p",
            "network_queues",
            "path_hash",
            "pcie_root_port",
            "pcie_switch_port",
            "prefetch_files.list",
            "rootless",
            "rx_rate_limiter_max_rate",
            "shared_fs",
            "tx_rate_limiter_max_rate",
            "use_legacy_serial",
            "vhost_user_store_path",
            "virtio_fs_cache",
            "virtio_fs_cache_size",
            "virtio_fs_daemon",
            "virtio_fs_extra_args",
        ],
    ),
    (
        "agent",
        &[
            "cdh_api_timeout",
            "cdh_api_timeout_ms",
            "container_pipe_size",
            "enable_tracing",
            "kernel_modules",
            "policy",
            "trace_mode",
            "trace_type",
        ],
    ),
    (
        "runtime",
        &[
            "agent_name",
            "disable_guest_seccomp",
            "disable_new_netns",
            "enable_pprof",
            "enable_vcpus_pinning",
            "experimental",
            "experimental_force_guest_pull",
            "internetworking_model",
            "name",
            "sandbox_bind_mounts",
            "sandbox_cgroup_only",
            "shared_mounts",
            "vfio_mode",
        ],
    ),
];

/// What becomes of an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It changes something.
    Effective,
    /// Kata knows it; here it means nothing.
    Meaningless,
    /// Nobody knows it.
    Unknown,
}

/// Of `GROUP.NAME`.
pub fn meaning(name: &str) -> Meaning {
    let others = || {
        let (group, short) = name.split_once('.')?;
        let (_, names) = OTHERS.iter().find(|(known, _)| *known == group)?;
        names.iter().find(|known| **known == short)
    };
    if EFFECTIVE.contains(&name) {
        Meaning::Effective
    } else if others().is_some() {
        Meaning::Meaningless
    } else {
        Meaning::Unknown
    }
}

/// Lets annotations through, or not. The answer: lines about those that change nothing. Errors: `Denied`, naming the annotation and the
/// line of the configuration that would allow it.
pub fn admit<'a>(config: &Config, all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<String>> {
    let patterns = &config.annotations.enable_annotations;
    let patterns = patterns.iter().map(|pattern| {
        let whole = Regex::new(&format!("^(?:{pattern})$"));
        whole.context(Kind::Invalid, || format!("annotations.enable_annotations: {pattern:?}"))
    });
    let patterns: Vec<Regex> = patterns.collect::<Result<_>>()?;
    let allowed = |name: &str| {
        let short = name.split_once('.').map_or(name, |(_, short)| short);
        patterns
            .iter()
            .any(|pattern| pattern.is_match(name) || pattern.is_match(short))
    };
    let mut all: Vec<(&str, &str)> = all.into_iter().filter(|(key, _)| key.starts_with(PREFIX)).collect();
    all.sort_unstable();
    let mut lines = Vec::new();
    for (key, value) in all {
        let name = key.strip_prefix(PREFIX).unwrap_or(key);
        match meaning(name) {
            Meaning::Unknown => lines.push(format!("annotation {key} is not known and changes nothing")),
            _ if !allowed(name) => return Err(denied(key, name)),
            Meaning::Meaningless => lines.push(format!("annotation {key} means nothing here and changes nothing")),
            Meaning::Effective => check_path(config, key, name, value)?,
        }
    }
    Ok(lines)
}

fn denied(key: &str, name: &str) -> Error {
    let short = name.split_once('.').map_or(name, |(_, short)| short);
    Error::new(Kind::Denied, format!("annotation {key} is not allowed")).because(format!(
        "to allow it, add {short:?} to enable_annotations in the section [annotations] of the configuration"
    ))
}

/// A path must be where the configuration lets it be, with all links followed.
fn check_path(config: &Config, key: &str, name: &str, value: &str) -> Result<()> {
    let (list, patterns, store) = match name {
        "hypervisor.path" => (
            "valid_hypervisor_paths",
            &config.annotations.valid_hypervisor_paths,
            None,
        ),
        "hypervisor.kernel" | "hypervisor.initrd" => (
            "valid_kernel_paths",
            &config.annotations.valid_kernel_paths,
            Some(config.guest.directory.as_path()),
        ),
        _ => return Ok(()),
    };
    let real = Path::new(value).canonicalize();
    let real = real.attempt(|| format!("annotation {key}={value:?}"))?;
    let options = MatchOptions {
        require_literal_separator: true,
        ..MatchOptions::default()
    };
    let fits = |pattern: &String| Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(&real, options));
    let stored = store
        .and_then(|store| store.canonicalize().ok())
        .is_some_and(|store| real.starts_with(store));
    if stored || patterns.iter().any(fits) {
        return Ok(());
    }
    Err(
        Error::new(Kind::Denied, format!("annotation {key}={value:?} is not allowed")).because(format!(
            "{} is matched by none of {list} in the section [annotations] of the configuration: add it, or a pattern",
            real.display()
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(config: &Config, name: &str, value: &str) -> Result<Vec<String>> {
        admit(config, [(format!("{PREFIX}{name}").as_str(), value), ("other", "x")])
    }

    fn with(patterns: &[&str]) -> Config {
        let mut config = Config::default();
        config.annotations.enable_annotations = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        config
    }

    #[test]
    fn only_what_is_allowed_passes_and_a_pattern_must_match_all_of_a_name() {
        let config = with(&["kernel", "default_.*", "runtime\\.hypervisor_name"]);
        for (name, allowed) in [
            ("hypervisor.default_memory", true),
            ("runtime.hypervisor_name", true),
            ("hypervisor.kernel_params", false),
            ("hypervisor.enable_template", false),
            ("hypervisor.virtio_fs_cache", false),
        ] {
            let got = admitted(&config, name, "1");
            assert_eq!(got.is_ok(), allowed, "{name}");
            if let Err(error) = got {
                let (_, short) = name.split_once('.').unwrap();
                assert_eq!(error.kind(), Kind::Denied);
                let chain = error.chain();
                assert!(
                    chain.contains(name) && chain.contains(&format!("add \"{short}\" to enable_annotations")),
                    "{chain}"
                );
            }
        }
        assert!(admitted(&with(&[".*"]), "agent.policy", "x").is_ok());
        assert!(admitted(&with(&[]), "hypervisor.default_memory", "1").is_err());
    }

    #[test]
    fn what_means_nothing_is_told() {
        let lines = admitted(&Config::default(), "hypervisor.enable_iommu", "true").unwrap();
        assert!(
            lines[0].ends_with("hypervisor.enable_iommu means nothing here and changes nothing"),
            "{lines:?}"
        );
        let lines = admitted(&with(&[]), "hypervisor.hotplug_everything", "true").unwrap();
        assert!(lines[0].contains("hotplug_everything is not known"), "{lines:?}");
        assert!(
            admitted(&Config::default(), "hypervisor.default_vcpus", "1")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn paths_stay_where_they_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (inside, outside) = (dir.join("in"), dir.join("out"));
        for dir in [&inside, &outside, &dir.join("store")] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("file"), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("file"), inside.join("link")).unwrap();
        let mut config = Config::default();
        config.annotations.valid_kernel_paths = vec![format!("{}/*", inside.display())];
        config.guest.directory = dir.join("store");
        let ask = |path: &Path| admitted(&config, "hypervisor.kernel", path.to_str().unwrap());
        ask(&inside.join("file")).unwrap();
        ask(&dir.join("store/file")).unwrap();
        for path in [outside.join("file"), inside.join("link"), inside.join("../out/file")] {
            let error = ask(&path).unwrap_err();
            assert!(error.chain().contains("valid_kernel_paths"), "{}", error.chain());
        }
        assert_eq!(ask(&dir.join("none")).unwrap_err().kind(), Kind::NotFound);
        let error = admitted(&config, "hypervisor.path", "/proc/self/exe").unwrap_err();
        assert!(error.chain().contains("valid_hypervisor_paths"), "{}", error.chain());
    }
}
