// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a kernel must have been built with, by the text of its `config` file. Modules are checked elsewhere: here
//! is what cannot be loaded later.

/// Options that must be `y`, each with what breaks without it.
const REQUIRED: [(&str, &str); 36] = [
    ("64BIT", "the agent is a 64-bit program"),
    ("PVH", "boot"),
    ("BLK_DEV_INITRD", "boot"),
    ("BINFMT_ELF", "programs"),
    ("DEVTMPFS", "devices"),
    ("PROC_FS", "/proc"),
    ("SYSFS", "/sys"),
    ("TMPFS", "tmpfs mounts"),
    ("UNIX98_PTYS", "terminals"),
    ("UNIX", "sockets"),
    ("INET", "sockets"),
    ("EPOLL", "the agent"),
    ("EVENTFD", "the agent"),
    ("SIGNALFD", "the agent"),
    ("MULTIUSER", "users"),
    ("NAMESPACES", "containers"),
    ("UTS_NS", "containers"),
    ("IPC_NS", "containers"),
    ("PID_NS", "containers"),
    ("USER_NS", "user namespaces"),
    ("NET_NS", "containers"),
    ("SYSVIPC", "ipc namespaces"),
    ("POSIX_MQUEUE", "/dev/mqueue"),
    ("CGROUPS", "limits"),
    ("MEMCG", "memory limits"),
    ("CGROUP_SCHED", "cpu limits"),
    ("CFS_BANDWIDTH", "cpu limits"),
    ("CPUSETS", "cpu sets"),
    ("CGROUP_PIDS", "process limits"),
    ("BLK_CGROUP", "io limits"),
    ("CGROUP_BPF", "device rules"),
    ("BPF_SYSCALL", "device rules"),
    ("SECCOMP_FILTER", "seccomp"),
    ("PCI", "devices"),
    ("ACPI", "devices"),
    ("SERIAL_8250_CONSOLE", "the console"),
];

/// The required options that `config` lacks, each as `CONFIG_X (what for)`.
pub fn missing(config: &str) -> Vec<String> {
    missing_of(&REQUIRED, config)
}

/// Those of `required` that `config` lacks or has as modules.
pub fn missing_of(required: &[(&str, &str)], config: &str) -> Vec<String> {
    let set: std::collections::BTreeSet<&str> = config
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.strip_suffix("=y"))
        .collect();
    required
        .iter()
        .filter(|(option, _)| !set.contains(option))
        .map(|(option, reason)| format!("CONFIG_{option} ({reason})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_off_or_modules_are_missing() {
        let all: String = REQUIRED
            .iter()
            .map(|(option, _)| format!("CONFIG_{option}=y\n"))
            .collect();
        assert!(missing(&all).is_empty());
        let some = all
            .replace("CONFIG_MEMCG=y", "# CONFIG_MEMCG is not set")
            .replace("CONFIG_UNIX=y", "CONFIG_UNIX=m");
        assert_eq!(
            missing(&some),
            ["CONFIG_UNIX (sockets)", "CONFIG_MEMCG (memory limits)"]
        );
        assert_eq!(missing("").len(), REQUIRED.len());
    }
}
