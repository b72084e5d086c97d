// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What engines that know pods write into a container's annotations: its part in a pod, and how much all containers of the pod may use.

use std::collections::{BTreeMap, HashMap};

use base::{Context, Kind, Result};

/// Keys of containerd and of CRI-O (which Podman uses, too) for a container's part, and for the id of the container that is the sandbox.
const PARTS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];
const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// A container's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It begins a pod: further containers will join its sandbox.
    Sandbox(Budget),
    /// It joins the sandbox of the container with this id.
    Member(String),
}

/// What the containers of a pod may use together; zero where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Microseconds of processor time in each period.
    pub cpu_quota: u64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Of 1024 for each processor that the pod counts on.
    pub cpu_shares: u64,
    /// Bytes.
    pub memory: u64,
}

/// What Kubernetes calls a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    /// Unlike those of all others.
    pub uid: String,
    /// In its namespace.
    pub name: String,
    /// Kubernetes', not the kernel's.
    pub namespace: String,
}

/// The name of the pod that a container begins or is in; none for others. containerd and CRI-O have keys of their own.
pub fn name(annotations: &BTreeMap<String, String>) -> Option<Name> {
    let part = |containerd: &str, crio: &str| {
        let value = annotations.get(containerd).or_else(|| annotations.get(crio));
        value.cloned().unwrap_or_default()
    };
    let name = Name {
        uid: part("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"),
        name: part("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
        namespace: part("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
    };
    (name != Name::default()).then_some(name)
}

/// Reads the annotations; none for a container that is alone. Errors: `Invalid`, naming the annotation.
pub fn part(annotations: &HashMap<String, String>) -> Result<Option<Part>> {
    for (kind, sandbox) in PARTS {
        match annotations.get(kind).map(String::as_str) {
            Some("sandbox") => return budget(annotations).map(Part::Sandbox).map(Some),
            Some("container") => {
                let id = annotations.get(sandbox).filter(|id| !id.is_empty());
                return Ok(id.cloned().map(Part::Member));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn budget(annotations: &HashMap<String, String>) -> Result<Budget> {
    let number = |key: &str| match annotations.get(key).map(|value| value.trim()) {
        None | Some("") => Ok(0),
        Some(value) => {
            let number: i64 = value
                .parse()
                .context(Kind::Invalid, || format!("annotation {key}={value:?}: not a number"))?;
            // -1 is no limit.
            Ok(u64::try_from(number).unwrap_or(0))
        }
    };
    Ok(Budget {
        cpu_quota: number(CPU_QUOTA)?,
        cpu_period: number(CPU_PERIOD)?,
        cpu_shares: number(CPU_SHARES)?,
        memory: number(MEMORY)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Part>> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (format!("io.kubernetes.{key}"), (*value).to_owned()));
        part(&pairs.collect())
    }

    #[test]
    fn parts_are_read_as_both_engines_write_them() {
        assert_eq!(read(&[("cri.sandbox-memory", "5")]).unwrap(), None);
        assert_eq!(read(&[("cri.container-type", "container")]).unwrap(), None);
        for (kind, id) in [
            ("cri.container-type", "cri.sandbox-id"),
            ("cri-o.ContainerType", "cri-o.SandboxID"),
        ] {
            let member = read(&[(kind, "container"), (id, "s1")]).unwrap();
            assert_eq!(member, Some(Part::Member("s1".into())));
            let sandbox = read(&[(kind, "sandbox"), (id, "s1")]).unwrap();
            assert_eq!(sandbox, Some(Part::Sandbox(Budget::default())));
        }
    }

    #[test]
    fn a_pod_has_a_name_as_either_engine_writes_it() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| (format!("io.kubernetes.{key}"), (*value).to_owned()));
            name(&pairs.collect())
        };
        assert_eq!(read(&[("cri.container-type", "sandbox")]), None);
        let want = Name {
            uid: "u".into(),
            name: "web".into(),
            namespace: String::new(),
        };
        let containerd = [("cri.sandbox-uid", "u"), ("cri.sandbox-name", "web")];
        assert_eq!(read(&containerd), Some(want.clone()));
        assert_eq!(read(&[("pod.uid", "u"), ("pod.name", "web")]), Some(want));
    }

    #[test]
    fn a_sandbox_may_say_what_all_may_use() {
        let sandbox = ("cri.container-type", "sandbox");
        let got = read(&[
            sandbox,
            ("cri.sandbox-cpu-quota", "250000"),
            ("cri.sandbox-cpu-period", "100000"),
            ("cri.sandbox-cpu-shares", "2048"),
            ("cri.sandbox-memory", "536870912"),
        ]);
        let want = Budget {
            cpu_quota: 250_000,
            cpu_period: 100_000,
            cpu_shares: 2048,
            memory: 512 << 20,
        };
        assert_eq!(got.unwrap(), Some(Part::Sandbox(want)));
        let unlimited = read(&[sandbox, ("cri.sandbox-cpu-quota", "-1"), ("cri.sandbox-memory", "")]);
        assert_eq!(unlimited.unwrap(), Some(Part::Sandbox(Budget::default())));
        let bad = read(&[sandbox, ("cri.sandbox-memory", "much")]).unwrap_err();
        assert!(bad.chain().contains("cri.sandbox-memory"), "{}", bad.chain());
    }
}
