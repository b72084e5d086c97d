// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What this runtime recognises, for engines that ask before they use it ("Features Structure" of the specification).

use serde_json::{Value, json};

/// Those that the guest takes as flags or attributes; any other is the file system's.
const MOUNT_OPTIONS: &str = "async atime bind defaults dev diratime dirsync exec loud mand noatime nodev nodiratime noexec \
    nomand norelatime nostrictatime nosuid private rbind rdev rdiratime relatime remount rexec rnodev rnodiratime rnoexec \
    rnosuid ro rprivate rro rrw rshared rslave rsuid runbindable rw shared silent slave strictatime suid sync tmpcopyup \
    unbindable";

const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT \
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP \
    MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

const ACTIONS: &str = "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG TRACE TRAP";

fn words(text: &str, prefix: &str) -> Value {
    text.split_whitespace().map(|word| format!("{prefix}{word}")).collect()
}

/// The document that `features` prints.
pub fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci_spec::runtime::VERSION,
        "hooks": words("prestart createRuntime createContainer startContainer poststart poststop", ""),
        "mountOptions": words(MOUNT_OPTIONS, ""),
        "linux": {
            "namespaces": words("cgroup ipc mount network pid user uts", ""),
            "capabilities": words(CAPABILITIES, "CAP_"),
            // Limits are applied in the guest, which has the unified hierarchy only, whatever the host has.
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": words(ACTIONS, "SCMP_ACT_"),
                "operators": words("EQ GE GT LE LT MASKED_EQ NE", "SCMP_CMP_"),
                "archs": words("X32 X86 X86_64", "SCMP_ARCH_")
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false }
        },
        "annotations": { "io.katacontainers.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": [crate::annotations::PREFIX]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_structure_of_the_specification() {
        let parsed: oci_spec::runtime::Features = serde_json::from_value(document()).unwrap();
        assert_eq!(parsed.oci_version_min(), "1.0.0");
        assert_eq!(parsed.hooks().as_ref().unwrap().len(), 6);
        assert_eq!(
            parsed.linux().as_ref().unwrap().capabilities().as_ref().unwrap().len(),
            41
        );
    }
}
