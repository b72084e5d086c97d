// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The starter `config.json` that `spec` writes: a shell in a read-only root, as runc has it.

use base::{Context, Error, Kind, Result};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Value {
    let mut mount = json!({ "destination": destination, "type": kind, "source": source });
    if !options.is_empty() {
        mount["options"] = options.split(',').collect();
    }
    mount
}

/// Who `spec --rootless` maps to root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Effective user of the caller.
    pub uid: u32,
    /// Effective group of the caller.
    pub gid: u32,
}

/// The spec as a document; with `rootless`, one that needs no privilege.
pub fn document(rootless: Option<Owner>) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let pts = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";
    let (pts, sys) = match rootless {
        Some(_) => (
            pts.to_owned(),
            mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro"),
        ),
        None => (
            format!("{pts},gid=5"),
            mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ),
    };
    let namespaces = match rootless {
        Some(_) => ["pid", "ipc", "uts", "mount", "user"],
        None => ["pid", "network", "ipc", "uts", "mount"],
    };
    let mut linux = json!({
        "namespaces": namespaces.map(|kind| json!({ "type": kind })),
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    });
    match rootless {
        Some(owner) => {
            linux["uidMappings"] = json!([{ "containerID": 0, "hostID": owner.uid, "size": 1 }]);
            linux["gidMappings"] = json!([{ "containerID": 0, "hostID": owner.gid, "size": 1 }]);
        }
        None => linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] }),
    }
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities, "ambient": capabilities
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "kata",
        "mounts": [
            mount("/proc", "proc", "proc", ""),
            mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "devpts", &pts),
            mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
            sys,
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro")
        ],
        "linux": linux
    })
}

/// [`document`] as the text of `config.json`, indented with tabs as runc does.
pub fn text(rootless: Option<Owner>) -> Result<String> {
    let mut bytes = Vec::new();
    let mut out = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"\t"));
    document(rootless)
        .serialize(&mut out)
        .context(Kind::Bug, || "write the starter spec".into())?;
    String::from_utf8(bytes).map_err(|e| Error::new(Kind::Bug, "write the starter spec").because(e))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn it_equals_the_one_of_the_installed_runc() {
        for rootless in [None, Some(Owner { uid: 0, gid: 0 })] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = Command::new("runc");
            command
                .arg("spec")
                .args(rootless.map(|_| "--rootless"))
                .current_dir(dir.path());
            match command.status() {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    eprintln!("skipped: runc is not installed");
                    return;
                }
                other => assert!(other.unwrap().success()),
            }
            if rootless.is_some() && !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: the ids of root are compared");
                return;
            }
            let theirs = std::fs::read(dir.path().join("config.json")).unwrap();
            let theirs: Value = serde_json::from_slice(&theirs).unwrap();
            let mut ours = document(rootless);
            ours["hostname"] = json!("runc");
            // Later versions mask and mention more: what is ours must be there as it is here.
            if theirs["ociVersion"] == ours["ociVersion"] {
                assert_eq!(ours, theirs);
            } else {
                eprintln!("only the members compared: runc writes {}", theirs["ociVersion"]);
                for key in ours.as_object().unwrap().keys() {
                    assert!(theirs.get(key).is_some(), "{key}");
                }
            }
        }
    }

    #[test]
    fn it_is_a_valid_bundle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        std::fs::write(dir.path().join("config.json"), text(None).unwrap()).unwrap();
        assert!(crate::Bundle::open(dir.path()).unwrap().terminal());
    }
}
