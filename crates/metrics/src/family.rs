// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All families that we have: no page holds another one. Names, labels and units are those of Kata where the meaning is the same, also
//! where Prometheus' own advice is another by now: dashboards know them. Units are then those of the kernel's files.

/// What the numbers of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, while whoever counts lives.
    Counter,
    /// How many took how long.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// Numbers of one meaning, told apart by labels.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// As on the page.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// In the order in which values are given.
    pub labels: &'static [&'static str],
    /// For people.
    pub help: &'static str,
}

/// Whose a line is, on a page of several sandboxes.
pub const SANDBOX_ID: &str = "sandbox_id";
/// The pod of a line's sandbox.
pub const CRI_UID: &str = "cri_uid";
/// The pod of a line's sandbox.
pub const CRI_NAME: &str = "cri_name";
/// The pod of a line's sandbox.
pub const CRI_NAMESPACE: &str = "cri_namespace";
/// Labels that any line may have.
pub const COMMON: [&str; 4] = [SANDBOX_ID, CRI_UID, CRI_NAME, CRI_NAMESPACE];

/// The family of a line that begins with `name`, and what of it says which part of a histogram that is.
pub fn of_sample(name: &str) -> Option<(&'static Family, &str)> {
    ALL.iter().find_map(|family| {
        let part = name.strip_prefix(family.name)?;
        let fits = match family.kind {
            Kind::Histogram => matches!(part, "_bucket" | "_sum" | "_count"),
            _ => part.is_empty(),
        };
        fits.then_some((*family, part))
    })
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// Every one.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    // The sandbox's monitor, which is to a sandbox what Kata's shim is.
    SHIM_PROC_STAT: Gauge "kata_shim_proc_stat" ["item"] "Processor time of the sandbox's monitor, clock ticks.";
    SHIM_PROC_STATUS: Gauge "kata_shim_proc_status" ["item"] "Memory (KiB) and context switches of the sandbox's monitor, of /proc/PID/status.";
    SHIM_IO_STAT: Gauge "kata_shim_io_stat" ["item"] "Reading and writing of the sandbox's monitor, of /proc/PID/io.";
    SHIM_FDS: Gauge "kata_shim_fds" [] "Open file descriptors of the sandbox's monitor.";
    SHIM_THREADS: Gauge "kata_shim_threads" [] "Threads of the sandbox's monitor.";
    SHIM_PSS: Gauge "kata_shim_pss_bytes" [] "Memory of the sandbox's monitor, its share of what it shares.";
    SHIM_NETDEV: Gauge "kata_shim_netdev" ["interface" "item"] "Interfaces in the network namespace of the sandbox's monitor, of /proc/net/dev.";
    SHIM_CPU: Counter "kata_shim_process_cpu_seconds_total" [] "Processor time of the sandbox's monitor, seconds.";
    SHIM_MAX_FDS: Gauge "kata_shim_process_max_fds" [] "How many file descriptors the sandbox's monitor may have open.";
    SHIM_OPEN_FDS: Gauge "kata_shim_process_open_fds" [] "Open file descriptors of the sandbox's monitor.";
    SHIM_RESIDENT: Gauge "kata_shim_process_resident_memory_bytes" [] "Resident memory of the sandbox's monitor.";
    SHIM_START_TIME: Gauge "kata_shim_process_start_time_seconds" [] "When the sandbox's monitor was started, seconds since the epoch.";
    SHIM_VIRTUAL: Gauge "kata_shim_process_virtual_memory_bytes" [] "Virtual memory of the sandbox's monitor.";
    SHIM_RPC: Histogram "kata_shim_rpc_durations_histogram_milliseconds" ["action"] "How long calls of the sandbox's Task service took.";
    AGENT_RPC: Histogram "kata_shim_agent_rpc_durations_histogram_milliseconds" ["action"] "How long calls of the guest's agent took.";
    SHIM_CONTAINERS: Gauge "kata_shim_containers" ["status"] "Containers of the sandbox.";
    SHIM_OOM_KILLS: Gauge "kata_shim_oom_kills" [] "Processes of the sandbox's containers that were killed for want of memory.";
    SHIM_SCRAPES: Counter "kata_shim_scrapes_total" [] "How often the sandbox was asked for this page.";

    // `kata shim`: those that stand for the containers' processes.
    CARRIERS: Gauge "kata_carrier_processes" [] "Processes that carry the streams of the containers' processes.";
    CARRIER_CPU: Gauge "kata_carrier_cpu_seconds" [] "Processor time of those that run, seconds.";
    CARRIER_RESIDENT: Gauge "kata_carrier_resident_memory_bytes" [] "Resident memory of all of them.";
    CARRIER_PSS: Gauge "kata_carrier_pss_bytes" [] "Memory of all of them, their share of what they share.";
    CARRIER_FDS: Gauge "kata_carrier_fds" [] "Open file descriptors of all of them.";
    CARRIER_THREADS: Gauge "kata_carrier_threads" [] "Threads of all of them.";

    // The process that serves files and vsock.
    DEVICE_UP: Gauge "kata_device_up" [] "1 if the device process runs.";
    DEVICE_PROC_STAT: Gauge "kata_device_proc_stat" ["item"] "Processor time of the device process, clock ticks.";
    DEVICE_PROC_STATUS: Gauge "kata_device_proc_status" ["item"] "Memory (KiB) and context switches of the device process, of /proc/PID/status.";
    DEVICE_IO_STAT: Gauge "kata_device_io_stat" ["item"] "Reading and writing of the device process, of /proc/PID/io.";
    DEVICE_FDS: Gauge "kata_device_fds" [] "Open file descriptors of the device process.";
    DEVICE_THREADS: Gauge "kata_device_threads" [] "Threads of the device process.";
    DEVICE_PSS: Gauge "kata_device_pss_bytes" [] "Memory of the device process, its share of what it shares (guest memory too).";

    // The hypervisor.
    HYPERVISOR_UP: Gauge "kata_hypervisor_up" [] "1 if the hypervisor's process runs.";
    HYPERVISOR_INFO: Gauge "kata_hypervisor_info" ["hypervisor"] "1, with the name of the hypervisor.";
    HYPERVISOR_VCPUS: Gauge "kata_hypervisor_vcpus" [] "Processors that the guest is to use.";
    HYPERVISOR_MEMORY: Gauge "kata_hypervisor_memory_bytes" [] "Memory that the guest is to use.";
    HYPERVISOR_PROC_STAT: Gauge "kata_hypervisor_proc_stat" ["item"] "Processor time of the hypervisor, clock ticks.";
    HYPERVISOR_PROC_STATUS: Gauge "kata_hypervisor_proc_status" ["item"] "Memory (KiB) and context switches of the hypervisor, of /proc/PID/status.";
    HYPERVISOR_IO_STAT: Gauge "kata_hypervisor_io_stat" ["item"] "Reading and writing of the hypervisor, of /proc/PID/io.";
    HYPERVISOR_FDS: Gauge "kata_hypervisor_fds" [] "Open file descriptors of the hypervisor.";
    HYPERVISOR_THREADS: Gauge "kata_hypervisor_threads" [] "Threads of the hypervisor.";
    HYPERVISOR_PSS: Gauge "kata_hypervisor_pss_bytes" [] "Memory of the hypervisor with that of the guest, its share of what it shares.";
    HYPERVISOR_NETDEV: Gauge "kata_hypervisor_netdev" ["interface" "item"] "Interfaces in the network namespace of the hypervisor, of /proc/PID/net/dev.";

    // The guest, by its agent.
    GUEST_UP: Gauge "kata_guest_up" [] "1 if the guest's agent has answered.";
    GUEST_CPU_TIME: Gauge "kata_guest_cpu_time" ["cpu" "item"] "Processor time of the guest, clock ticks, of /proc/stat.";
    GUEST_LOAD: Gauge "kata_guest_load" ["item"] "Load of the guest.";
    GUEST_TASKS: Gauge "kata_guest_tasks" ["item"] "Tasks of the guest: those that can run, and all.";
    GUEST_MEMINFO: Gauge "kata_guest_meminfo" ["item"] "Memory of the guest, KiB or pages as in /proc/meminfo.";
    GUEST_VM_STAT: Gauge "kata_guest_vm_stat" ["item"] "Virtual memory of the guest, of /proc/vmstat.";
    GUEST_DISKSTAT: Gauge "kata_guest_diskstat" ["disk" "item"] "Block devices of the guest, of /proc/diskstats.";
    GUEST_NETDEV: Gauge "kata_guest_netdev_stat" ["interface" "item"] "Interfaces of the guest, of /proc/net/dev.";
    AGENT_SCRAPES: Counter "kata_agent_scrape_count" [] "How often the agent was asked.";
    AGENT_PROC_STAT: Gauge "kata_agent_proc_stat" ["item"] "Processor time of the agent, clock ticks.";
    AGENT_PROC_STATUS: Gauge "kata_agent_proc_status" ["item"] "Memory (KiB) and context switches of the agent, of /proc/PID/status.";
    AGENT_IO_STAT: Gauge "kata_agent_io_stat" ["item"] "Reading and writing of the agent, of /proc/PID/io.";
    AGENT_THREADS: Gauge "kata_agent_threads" [] "Threads of the agent.";
    AGENT_CPU: Counter "kata_agent_process_cpu_seconds_total" [] "Processor time of the agent, seconds.";
    AGENT_MAX_FDS: Gauge "kata_agent_process_max_fds" [] "How many file descriptors the agent may have open.";
    AGENT_OPEN_FDS: Gauge "kata_agent_process_open_fds" [] "Open file descriptors of the agent.";
    AGENT_RESIDENT: Gauge "kata_agent_process_resident_memory_bytes" [] "Resident memory of the agent.";
    AGENT_START_TIME: Gauge "kata_agent_process_start_time_seconds" [] "When the guest was started, seconds since the epoch by its own clock.";
    AGENT_VIRTUAL: Gauge "kata_agent_process_virtual_memory_bytes" [] "Virtual memory of the agent.";

    // `kata monitor`, once for the node.
    MONITOR_RUNNING: Gauge "kata_monitor_running_shim_count" [] "Sandboxes of the node that answer.";
    MONITOR_UP: Gauge "kata_monitor_sandbox_up" [] "1 if the sandbox has answered.";
    MONITOR_SCRAPES: Counter "kata_monitor_scrape_count" [] "How often the node was asked.";
    MONITOR_FAILED: Counter "kata_monitor_scrape_failed_count" [] "How often a sandbox did not answer, or with nonsense.";
    MONITOR_DURATIONS: Histogram "kata_monitor_scrape_durations_histogram_milliseconds" [] "How long it took to ask all sandboxes.";
    MONITOR_CPU: Counter "kata_monitor_process_cpu_seconds_total" [] "Processor time of the node's monitor, seconds.";
    MONITOR_MAX_FDS: Gauge "kata_monitor_process_max_fds" [] "How many file descriptors the node's monitor may have open.";
    MONITOR_OPEN_FDS: Gauge "kata_monitor_process_open_fds" [] "Open file descriptors of the node's monitor.";
    MONITOR_RESIDENT: Gauge "kata_monitor_process_resident_memory_bytes" [] "Resident memory of the node's monitor.";
    MONITOR_START_TIME: Gauge "kata_monitor_process_start_time_seconds" [] "When the node's monitor was started, seconds since the epoch.";
    MONITOR_VIRTUAL: Gauge "kata_monitor_process_virtual_memory_bytes" [] "Virtual memory of the node's monitor.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_labels_are_such_and_no_two_are_alike() {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let mut names = BTreeSet::new();
        for family in ALL {
            assert!(word(family.name) && family.name.starts_with("kata_"), "{}", family.name);
            assert!(names.insert(family.name), "{} is there twice", family.name);
            assert!(
                family.labels.iter().all(|label| word(label) && *label != "le"),
                "{}",
                family.name
            );
            assert!(
                !family.help.contains(['\n', '\\']) && family.help.ends_with('.'),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn lines_are_told_by_their_beginnings() {
        assert_eq!(of_sample("kata_guest_up"), Some((&GUEST_UP, "")));
        assert_eq!(of_sample("kata_guest_up_count"), None);
        let name = "kata_shim_rpc_durations_histogram_milliseconds";
        assert_eq!(of_sample(name), None);
        assert_eq!(of_sample(&format!("{name}_sum")), Some((&SHIM_RPC, "_sum")));
        assert_eq!(of_sample("kata_shim_proc_status"), Some((&SHIM_PROC_STATUS, "")));
    }
}
