// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Kata's keys, in the spellings of both of its runtimes, and what becomes of each.

use super::fate::{self, Fate};

const DEVICES: &str = "devices of a machine are made by what its containers ask for; there is nothing to choose";
const DISKS: &str = "block devices are virtio-blk, opened by the monitor";
const FILES: &str = "kata's own device process serves the file system";
const GUEST: &str = "guests boot an image of ours with our agent: `kata guest build` makes it";
const HARDWARE: &str = "confidential machines are not there";
const LIMITS: &str = "the machine has a memory and a device process of its own, which nothing of this changes";
const MEMORY: &str = "memory that a guest does not use goes back to the host by itself";
const NAMES: &str = "there is one runtime and one agent";
const NETWORK: &str = "interfaces of the engine are tied to the machine by traffic control, with offloads";
pub(super) const OTHER_VMM: &str = "only QEMU is here";
const PASSTHROUGH: &str = "host devices are not passed through";
const SECURITY: &str = "hypervisor and device process are always jailed: own user, seccomp, no privileges";
const SIZE: &str = "a machine is measured by the limits of its containers, with what the guest needs beside them";
const STREAMS: &str = "streams are connections of their own between shim and guest";
const TELLING: &str = "the guest's console and log are kept for messages of errors";
const TRACING: &str = "there is no tracing: `kata run --timeline FILE` shows where the time of a start goes";
const WAITING: &str = "deadlines are those of a boot (guest.boot_timeout) and of a call (agent.timeout)";

const HYPERVISOR: &[(&str, Fate)] = &[
    ("path", Fate::Same("hypervisor.path")),
    (
        "valid_hypervisor_paths",
        Fate::Same("annotations.valid_hypervisor_paths"),
    ),
    ("ctlpath", Fate::Nothing(OTHER_VMM)),
    ("valid_ctlpaths", Fate::Nothing(OTHER_VMM)),
    ("jailer_path", Fate::Nothing(SECURITY)),
    ("valid_jailer_paths", Fate::Nothing(SECURITY)),
    (
        "disable_nesting_checks",
        Fate::Nothing("whether KVM can be used is found out at each start"),
    ),
    ("enable_iothreads", Fate::Nothing(DEVICES)),
    ("indep_iothreads", Fate::Nothing(DEVICES)),
    ("kernel", Fate::Nothing(GUEST)),
    ("initrd", Fate::Nothing(GUEST)),
    ("image", Fate::Nothing(GUEST)),
    ("rootfs_type", Fate::Nothing(GUEST)),
    ("vm_rootfs_driver", Fate::Nothing(GUEST)),
    ("guest_extension_images", Fate::Nothing(GUEST)),
    (
        "firmware",
        Fate::Nothing("kernels are started by QEMU's smallest firmware"),
    ),
    (
        "firmware_volume",
        Fate::Nothing("kernels are started by QEMU's smallest firmware"),
    ),
    ("kernel_params", Fate::By("guest.kernel_params", fate::kernel_params)),
    (
        "kernel_verity_params",
        Fate::Nothing("the guest's root is an initramfs, which is in memory"),
    ),
    (
        "cpu_features",
        Fate::Nothing("a machine has the processor's features, as far as they work"),
    ),
    ("default_vcpus", Fate::By("machine.vcpus", fate::vcpus)),
    ("default_maxvcpus", Fate::By("machine.max_vcpus", fate::most)),
    ("overhead_vcpus", Fate::Nothing(SIZE)),
    (
        "disable_nested_virtualization",
        Fate::Nothing("a machine has the processor's features, as far as they work"),
    ),
    ("enable_numa", Fate::Nothing(DEVICES)),
    ("numa_mapping", Fate::Nothing(DEVICES)),
    ("default_memory", Fate::Same("machine.memory")),
    ("default_maxmemory", Fate::By("machine.max_memory", fate::most)),
    ("overhead_memory", Fate::Nothing(SIZE)),
    (
        "memory_slots",
        Fate::Nothing("memory is not plugged: the guest takes it up"),
    ),
    ("memory_offset", Fate::Nothing("there are no NVDIMMs")),
    ("enable_mem_prealloc", Fate::Nothing(MEMORY)),
    ("enable_hugepages", Fate::Nothing(MEMORY)),
    ("hugepage_type", Fate::Nothing(MEMORY)),
    ("enable_virtio_mem", Fate::Nothing(MEMORY)),
    ("enable_guest_swap", Fate::Nothing(MEMORY)),
    ("enable_swap", Fate::Nothing(MEMORY)),
    ("guest_swap_path", Fate::Nothing(MEMORY)),
    ("guest_swap_size_percent", Fate::Nothing(MEMORY)),
    ("guest_swap_create_threshold_secs", Fate::Nothing(MEMORY)),
    ("reclaim_guest_freed_memory", Fate::Nothing(MEMORY)),
    ("enable_balloon_f_reporting", Fate::Nothing(MEMORY)),
    ("file_mem_backend", Fate::Nothing(MEMORY)),
    ("valid_file_mem_backends", Fate::Nothing(MEMORY)),
    ("disable_block_device_use", Fate::Nothing(DISKS)),
    ("block_device_driver", Fate::Nothing(DISKS)),
    ("block_device_aio", Fate::Nothing(DISKS)),
    ("block_device_cache_set", Fate::Nothing(DISKS)),
    ("block_device_cache_direct", Fate::Nothing(DISKS)),
    ("block_device_cache_noflush", Fate::Nothing(DISKS)),
    ("block_device_logical_sector_size", Fate::Nothing(DISKS)),
    ("block_device_physical_sector_size", Fate::Nothing(DISKS)),
    ("disable_image_nvdimm", Fate::Nothing("there are no NVDIMMs")),
    ("enable_vhost_user_store", Fate::Nothing(DISKS)),
    ("vhost_user_store_path", Fate::Nothing(DISKS)),
    ("valid_vhost_user_store_paths", Fate::Nothing(DISKS)),
    ("vhost_user_reconnect_timeout_sec", Fate::Nothing(DISKS)),
    ("disk_rate_limiter_bw_max_rate", Fate::Nothing(DISKS)),
    ("disk_rate_limiter_bw_one_time_burst", Fate::Nothing(DISKS)),
    ("disk_rate_limiter_ops_max_rate", Fate::Nothing(DISKS)),
    ("disk_rate_limiter_ops_one_time_burst", Fate::Nothing(DISKS)),
    ("queue_size", Fate::Nothing(DISKS)),
    ("num_queues", Fate::Nothing(DISKS)),
    ("default_bridges", Fate::Nothing(DEVICES)),
    ("hotplug_vfio_on_root_bus", Fate::Nothing(PASSTHROUGH)),
    ("hot_plug_vfio", Fate::Nothing(PASSTHROUGH)),
    ("cold_plug_vfio", Fate::Nothing(PASSTHROUGH)),
    ("pcie_root_port", Fate::Nothing(PASSTHROUGH)),
    ("pcie_switch_port", Fate::Nothing(PASSTHROUGH)),
    ("enable_iommu", Fate::Nothing(PASSTHROUGH)),
    ("enable_iommu_platform", Fate::Nothing(PASSTHROUGH)),
    ("machine_type", Fate::Nothing("the machine is QEMU's microvm with PCI")),
    (
        "machine_accelerators",
        Fate::Nothing("KVM is taken where it works (hypervisor.name says otherwise)"),
    ),
    (
        "pflashes",
        Fate::Nothing("kernels are started by QEMU's smallest firmware"),
    ),
    (
        "entropy_source",
        Fate::Nothing("guests get their randomness with the greeting of the host"),
    ),
    (
        "valid_entropy_sources",
        Fate::Nothing("guests get their randomness with the greeting of the host"),
    ),
    ("disable_vhost_net", Fate::Nothing(NETWORK)),
    ("rx_rate_limiter_max_rate", Fate::Nothing(NETWORK)),
    ("tx_rate_limiter_max_rate", Fate::Nothing(NETWORK)),
    ("net_rate_limiter_bw_max_rate", Fate::Nothing(NETWORK)),
    ("net_rate_limiter_bw_one_time_burst", Fate::Nothing(NETWORK)),
    ("net_rate_limiter_ops_max_rate", Fate::Nothing(NETWORK)),
    ("net_rate_limiter_ops_one_time_burst", Fate::Nothing(NETWORK)),
    ("network_queues", Fate::Nothing(NETWORK)),
    ("rootless", Fate::Nothing(SECURITY)),
    ("rootless_user", Fate::Nothing(SECURITY)),
    ("disable_seccomp", Fate::Nothing(SECURITY)),
    ("seccompsandbox", Fate::Nothing(SECURITY)),
    ("seccomp_sandbox", Fate::Nothing(SECURITY)),
    ("disable_selinux", Fate::Nothing(SECURITY)),
    ("selinux_label", Fate::Nothing(SECURITY)),
    ("disable_guest_selinux", Fate::Nothing("the guest has no SELinux")),
    ("guest_selinux_label", Fate::Nothing("the guest has no SELinux")),
    ("confidential_guest", Fate::Nothing(HARDWARE)),
    ("sev_snp_guest", Fate::Nothing(HARDWARE)),
    ("snp_id_block", Fate::Nothing(HARDWARE)),
    ("snp_id_auth", Fate::Nothing(HARDWARE)),
    ("snp_guest_policy", Fate::Nothing(HARDWARE)),
    ("tdx_quote_generation_service_socket_port", Fate::Nothing(HARDWARE)),
    ("measurement_algo", Fate::Nothing(HARDWARE)),
    ("initdata", Fate::Nothing(HARDWARE)),
    ("guest_hook_path", Fate::Nothing("hooks are those of the spec")),
    (
        "enable_annotations",
        Fate::By("annotations.enable_annotations", fate::patterns),
    ),
    ("shared_fs", Fate::Nothing(FILES)),
    ("virtio_fs_daemon", Fate::Nothing(FILES)),
    ("valid_virtio_fs_daemon_paths", Fate::Nothing(FILES)),
    ("virtio_fs_extra_args", Fate::Nothing(FILES)),
    ("virtio_fs_cache", Fate::Nothing(FILES)),
    ("virtio_fs_cache_size", Fate::Nothing(FILES)),
    ("virtio_fs_queue_size", Fate::Nothing(FILES)),
    ("virtio_fs_is_dax", Fate::Nothing(FILES)),
    ("prefetch_list_path", Fate::Nothing(FILES)),
    ("msize_9p", Fate::Nothing(FILES)),
    ("enable_debug", Fate::Nothing(TELLING)),
    ("log_level", Fate::Nothing(TELLING)),
    ("hypervisor_loglevel", Fate::Nothing(TELLING)),
    ("guest_memory_dump_path", Fate::Nothing(TELLING)),
    ("guest_memory_dump_paging", Fate::Nothing(TELLING)),
    (
        "extra_monitor_socket",
        Fate::Nothing("the control channel of QEMU has no name"),
    ),
    (
        "dbg_monitor_socket",
        Fate::Nothing("the control channel of QEMU has no name"),
    ),
    ("use_legacy_serial", Fate::Nothing(TELLING)),
    ("hypervisor_socket", Fate::Nothing(OTHER_VMM)),
    ("hypervisor_timeout", Fate::Nothing(OTHER_VMM)),
    ("default_gpus", Fate::Nothing(PASSTHROUGH)),
    ("default_gpu_model", Fate::Nothing(PASSTHROUGH)),
    (
        "boot_to_be_template",
        Fate::Nothing("`kata guest template build` makes templates"),
    ),
    ("boot_from_template", Fate::Same("template.enable")),
    (
        "memory_path",
        Fate::Nothing("a template is a directory below template.directory"),
    ),
    (
        "device_state_path",
        Fate::Nothing("a template is a directory below template.directory"),
    ),
    // [hypervisor.X.factory] of the Rust runtime.
    ("factory.enable_template", Fate::Same("template.enable")),
    ("factory.template_path", Fate::Same("template.directory")),
    ("factory.vm_cache_number", Fate::By("standby.count", fate::cache)),
    (
        "factory.vm_cache_endpoint",
        Fate::Nothing("machines that wait are found in standby.directory"),
    ),
];

const FACTORY: &[(&str, Fate)] = &[
    ("enable_template", Fate::Same("template.enable")),
    ("template_path", Fate::Same("template.directory")),
    ("vm_cache_number", Fate::By("standby.count", fate::cache)),
    (
        "vm_cache_endpoint",
        Fate::Nothing("machines that wait are found in standby.directory"),
    ),
];

const AGENT: &[(&str, Fate)] = &[
    ("enable_debug", Fate::Nothing(TELLING)),
    ("log_level", Fate::Nothing(TELLING)),
    ("enable_tracing", Fate::Nothing(TRACING)),
    ("trace_mode", Fate::Nothing(TRACING)),
    ("trace_type", Fate::Nothing(TRACING)),
    (
        "debug_console_enabled",
        Fate::Nothing("`kata exec` and `kata-runtime exec` give a shell in a container"),
    ),
    ("visible_cdi_devices", Fate::Nothing(PASSTHROUGH)),
    (
        "server_port",
        Fate::Nothing("ports are fixed: 1024 for calls, 1027 for streams"),
    ),
    (
        "log_port",
        Fate::Nothing("ports are fixed: 1024 for calls, 1027 for streams"),
    ),
    ("passfd_listener_port", Fate::Nothing(STREAMS)),
    ("dial_timeout", Fate::Nothing(WAITING)),
    ("dial_timeout_ms", Fate::Nothing(WAITING)),
    ("reconnect_timeout_ms", Fate::Nothing(WAITING)),
    ("cdh_api_timeout", Fate::Nothing(HARDWARE)),
    ("cdh_api_timeout_ms", Fate::Nothing(HARDWARE)),
    ("image_pull_timeout", Fate::Nothing("images are pulled on the host")),
    ("create_container_timeout", Fate::Same("guest.boot_timeout")),
    (
        "health_check_request_timeout_ms",
        Fate::Nothing("the end of a machine is seen at once; nobody asks for it"),
    ),
    (
        "kernel_modules",
        Fate::Nothing("modules are loaded by the image that `kata guest build` makes"),
    ),
    ("container_pipe_size", Fate::Nothing(STREAMS)),
    ("launch_process_timeout", Fate::Nothing(HARDWARE)),
    (
        "policy",
        Fate::Nothing("there is no policy on the agent's calls: the host is trusted"),
    ),
];

const RUNTIME: &[(&str, Fate)] = &[
    ("name", Fate::Nothing(NAMES)),
    ("hypervisor_name", Fate::By("hypervisor.name", fate::hypervisor)),
    ("agent_name", Fate::Nothing(NAMES)),
    ("enable_debug", Fate::Same("log.debug")),
    ("log_level", Fate::By("log.debug", fate::level)),
    ("experimental", Fate::Nothing("nothing is called experimental")),
    (
        "experimental_force_guest_pull",
        Fate::Nothing("images are pulled on the host"),
    ),
    ("internetworking_model", Fate::Nothing(NETWORK)),
    (
        "disable_new_netns",
        Fate::Nothing("a machine never uses the host's network namespace"),
    ),
    (
        "sandbox_bind_mounts",
        Fate::Nothing("the guest has no services that would read them"),
    ),
    (
        "sandbox_cgroup_only",
        Fate::Nothing("all processes of a sandbox are in the group that the spec names"),
    ),
    ("enable_vcpus_pinning", Fate::Nothing(LIMITS)),
    ("enable_tracing", Fate::Nothing(TRACING)),
    ("jaeger_endpoint", Fate::Nothing(TRACING)),
    ("jaeger_user", Fate::Nothing(TRACING)),
    ("jaeger_password", Fate::Nothing(TRACING)),
    ("enable_pprof", Fate::Nothing("there is nothing to profile in this way")),
    ("static_sandbox_resource_mgmt", Fate::Nothing(SIZE)),
    (
        "disable_guest_seccomp",
        Fate::Nothing("seccomp profiles of containers always hold in the guest"),
    ),
    ("emptydir_mode", Fate::Nothing(FILES)),
    ("vfio_mode", Fate::Nothing(PASSTHROUGH)),
    (
        "keep_abnormal",
        Fate::Nothing("a machine that has ended is told with its last words; nothing is kept"),
    ),
    ("dan_conf", Fate::Nothing(NETWORK)),
    ("shared_mounts", Fate::Nothing(FILES)),
    ("use_passfd_io", Fate::Nothing(STREAMS)),
    ("passfd_listener_port", Fate::Nothing(STREAMS)),
    ("pod_resource_api_sock", Fate::Nothing(PASSTHROUGH)),
    ("kubelet_root_dir", Fate::Nothing("volumes are what the spec mounts")),
    ("create_container_timeout", Fate::Same("guest.boot_timeout")),
];

/// Tables whose keys all have one reason.
const WHOLE: &[(&str, &str)] = &[
    ("proxy", "there is no proxy"),
    ("shim", "the shim has no settings"),
    ("netmon", "interfaces that come late are seen by the monitor itself"),
    ("image", GUEST),
];

/// Of those of `table`; the agent's memory agent has a table of its own.
pub(super) fn fate(table: &str, name: &str) -> Option<Fate> {
    if let Some((_, why)) = WHOLE.iter().find(|(known, _)| *known == table) {
        return Some(Fate::Nothing(why));
    }
    if table == "agent" && name.starts_with("mem_agent") {
        return Some(Fate::Nothing(MEMORY));
    }
    if table == "runtime" && name.starts_with("shared_mounts") {
        return Some(Fate::Nothing(FILES));
    }
    let found = keys(table).iter().find(|(known, _)| *known == name);
    found.map(|(_, fate)| *fate)
}

/// Whether a key of a hypervisor's table is about its program.
pub(super) fn of_the_program(name: &str) -> bool {
    ["path", "valid_hypervisor_paths"].contains(&name)
}

/// The names of a table.
pub(super) fn names(table: &str) -> impl Iterator<Item = &'static str> {
    keys(table).iter().map(|(name, _)| *name)
}

fn keys(table: &str) -> &'static [(&'static str, Fate)] {
    match table {
        "hypervisor" => HYPERVISOR,
        "factory" => FACTORY,
        "agent" => AGENT,
        "runtime" => RUNTIME,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_has_a_place_here_finds_it() {
        for table in ["hypervisor", "factory", "agent", "runtime"] {
            let mut seen = std::collections::BTreeSet::new();
            for (name, fate) in keys(table) {
                assert!(seen.insert(name), "{table}.{name} is there twice");
                if let Fate::Same(to) | Fate::By(to, _) = fate {
                    assert!(crate::definition::key(to).is_some(), "{to}");
                }
            }
        }
    }
}
