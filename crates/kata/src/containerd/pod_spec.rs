// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The definition of the container that a pod has where the engine makes none: what CRI says of the pod, as containerd itself would
//! write it into that of its own.

use std::path::Path;

use api::cri::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig};
use base::{Context, Error, Kind, Result};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Map, Value, json};

/// How containerd marks the configuration, with or without a prefix.
const TYPE: &str = "runtime.v1.PodSandboxConfig";
/// Its user, who is nobody.
const USER: u32 = 65535;

/// Errors: `Invalid` for anything else.
pub fn config(options: Option<&Any>) -> Result<PodSandboxConfig> {
    let found = options.filter(|options| options.type_url.rsplit('/').next() == Some(TYPE));
    let found = found.ok_or_else(|| {
        let what = "a sandbox without the configuration of a pod: only those of CRI are supported";
        let given = options.map_or("nothing", |options| options.type_url.as_str());
        Error::new(Kind::Invalid, what).because(format!("its options are {given}, not {TYPE}"))
    })?;
    PodSandboxConfig::parse_from_bytes(&found.value).context(Kind::Invalid, || "read the configuration of a pod".into())
}

/// `config.json`. `shm` is a directory that stands for the pod's memory by name; `network` is empty for the host's.
pub fn document(
    id: &str,
    config: &PodSandboxConfig,
    annotations: &[(String, String)],
    network: &str,
    shm: &Path,
) -> Value {
    let linux = config.linux.get_or_default();
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": USER, "gid": USER },
            "args": ["/pause"],
            "cwd": "/",
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
            { "destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind"] }
        ],
        "annotations": annotated(id, config, annotations),
        "linux": {
            "namespaces": namespaces(linux, network),
            "sysctl": linux.sysctls,
            "cgroupsPath": group(id, &linux.cgroup_parent)
        }
    });
    if !config.hostname.is_empty() {
        spec["hostname"] = json!(config.hostname);
    }
    spec
}

fn namespaces(linux: &LinuxPodSandboxConfig, network: &str) -> Vec<Value> {
    let options = linux.security_context.namespace_options.get_or_default();
    let of_the_host = |mode: protobuf::EnumOrUnknown<NamespaceMode>| mode.enum_value() == Ok(NamespaceMode::NODE);
    let mut namespaces = vec![json!({ "type": "mount" })];
    if !network.is_empty() && !of_the_host(options.network) {
        namespaces.push(json!({ "type": "network", "path": network }));
        namespaces.push(json!({ "type": "uts" }));
    }
    if !of_the_host(options.ipc) {
        namespaces.push(json!({ "type": "ipc" }));
    }
    if !of_the_host(options.pid) {
        namespaces.push(json!({ "type": "pid" }));
    }
    namespaces
}

/// Below the pod's, as containerd names those of its own pods' containers; systemd's have a way of their own.
fn group(id: &str, parent: &str) -> String {
    let base = parent.rsplit('/').next().unwrap_or_default();
    if base.ends_with(".slice") {
        return format!("{base}:cri-containerd:{id}");
    }
    format!("{}/{id}", parent.trim_end_matches('/'))
}

/// Those of the pod, those of containerd's request, and what containerd tells of a pod, which nobody else can say.
fn annotated(id: &str, config: &PodSandboxConfig, given: &[(String, String)]) -> Map<String, Value> {
    let own = config
        .annotations
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    let mut all: Map<String, Value> = own
        .chain(given.iter().cloned())
        .map(|(key, value)| (key, json!(value)))
        .collect();
    let metadata = config.metadata.get_or_default();
    let resources = config.linux.get_or_default().resources.get_or_default();
    for (key, value) in [
        ("container-type", "sandbox".to_owned()),
        ("sandbox-id", id.to_owned()),
        ("sandbox-name", metadata.name.clone()),
        ("sandbox-namespace", metadata.namespace.clone()),
        ("sandbox-uid", metadata.uid.clone()),
        ("sandbox-log-directory", config.log_directory.clone()),
        ("sandbox-cpu-period", resources.cpu_period.to_string()),
        ("sandbox-cpu-quota", resources.cpu_quota.to_string()),
        ("sandbox-cpu-shares", resources.cpu_shares.to_string()),
        ("sandbox-memory", resources.memory_limit_in_bytes.to_string()),
    ] {
        all.insert(format!("io.kubernetes.cri.{key}"), json!(value));
    }
    all
}

/// `/etc/resolv.conf` of the pod; none where that of the host is to be taken.
pub fn resolver(config: &PodSandboxConfig) -> Option<String> {
    let dns = config.dns_config.as_ref()?;
    let mut lines = Vec::new();
    if !dns.searches.is_empty() {
        lines.push(format!("search {}\n", dns.searches.join(" ")));
    }
    lines.extend(dns.servers.iter().map(|server| format!("nameserver {server}\n")));
    if !dns.options.is_empty() {
        lines.push(format!("options {}\n", dns.options.join(" ")));
    }
    (!lines.is_empty()).then(|| lines.concat())
}

#[cfg(test)]
mod tests {
    use api::cri::{DNSConfig, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxMetadata};
    use oci::Bundle;
    use oci::pod::Part;

    use super::*;

    fn linux(network: NamespaceMode, pid: NamespaceMode) -> LinuxPodSandboxConfig {
        let options = NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ..NamespaceOption::default()
        };
        let context = LinuxSandboxSecurityContext {
            namespace_options: Some(options).into(),
            ..LinuxSandboxSecurityContext::default()
        };
        LinuxPodSandboxConfig {
            cgroup_parent: "/pods/one".into(),
            security_context: Some(context).into(),
            ..LinuxPodSandboxConfig::default()
        }
    }

    #[test]
    fn a_pod_is_what_cri_says_and_nobody_else_says_what_it_is() {
        let config = PodSandboxConfig {
            hostname: "shop".into(),
            metadata: Some(PodSandboxMetadata {
                name: "web".into(),
                ..PodSandboxMetadata::default()
            })
            .into(),
            annotations: [
                ("note".to_owned(), "kept".to_owned()),
                ("io.kubernetes.cri.container-type".to_owned(), "container".to_owned()),
            ]
            .into(),
            linux: Some(linux(NamespaceMode::POD, NamespaceMode::CONTAINER)).into(),
            ..PodSandboxConfig::default()
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let spec = document("p1", &config, &[], "/run/netns/n", Path::new("/b/p1/shm"));
        let bundle = Bundle::parse(dir.path().to_owned(), spec.to_string().into_bytes()).unwrap();
        assert!(matches!(bundle.part().unwrap(), Some(Part::Sandbox(_))));
        assert_eq!(bundle.annotations().unwrap()["note"], "kept");
        assert_eq!(spec["hostname"], "shop");
        assert_eq!(spec["linux"]["cgroupsPath"], "/pods/one/p1");
        let kinds: Vec<&str> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|namespace| namespace["type"].as_str())
            .collect();
        assert_eq!(kinds, ["mount", "network", "uts", "ipc", "pid"]);
    }

    #[test]
    fn what_is_the_hosts_is_left_out_and_slices_are_named_as_systemd_does() {
        let kinds = |network| {
            let found = namespaces(&linux(NamespaceMode::NODE, NamespaceMode::NODE), network);
            found
                .iter()
                .map(|one| one["type"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds("/n"), ["mount", "ipc"]);
        assert_eq!(kinds(""), ["mount", "ipc"]);
        assert_eq!(
            group("p", "/kubepods.slice/kubepods-pod1.slice"),
            "kubepods-pod1.slice:cri-containerd:p"
        );
        assert_eq!(group("p", ""), "/p");
    }

    #[test]
    fn name_servers_are_those_of_the_pod_or_the_hosts() {
        let with = |dns: Option<DNSConfig>| PodSandboxConfig {
            dns_config: dns.into(),
            ..PodSandboxConfig::default()
        };
        assert_eq!(resolver(&with(None)), None);
        assert_eq!(resolver(&with(Some(DNSConfig::default()))), None);
        let dns = DNSConfig {
            servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            searches: vec!["a.test".into(), "b.test".into()],
            options: vec!["ndots:3".into()],
            ..DNSConfig::default()
        };
        let want = "search a.test b.test\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:3\n";
        assert_eq!(resolver(&with(Some(dns))).as_deref(), Some(want));
    }

    #[test]
    fn other_configurations_are_refused() {
        let any = |kind: &str, value: &[u8]| Any {
            type_url: kind.to_owned(),
            value: value.to_owned(),
            ..Any::default()
        };
        assert!(config(Some(&any(TYPE, b""))).is_ok());
        assert!(config(Some(&any("type.googleapis.com/runtime.v1.PodSandboxConfig", b""))).is_ok());
        for bad in [
            None,
            Some(any("runtime.v2.PodSandboxConfig", b"")),
            Some(any(TYPE, b"\xff")),
        ] {
            assert_eq!(config(bad.as_ref()).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
