// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Namespaces that a spec names by a path of the host, translated to those of the guest: the path leads to a process that stands for a
//! container, and then that container's is meant, or to a namespace that the engine has prepared for a pod, and then all containers
//! that name it share one. Those of mounts and of the network are not translated.

use std::collections::BTreeMap;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use api::agent::Namespace;
use base::{Context, Error, Kind, Result};
use oci::spec::{LinuxNamespaceType, Spec};

/// A namespace of the host's kernel: device and inode.
pub type Identity = (u64, u64);

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The namespace of this host process.
    Process(u32),
    /// One that is held by a file.
    Prepared(Identity),
}

/// The namespaces that `spec` names by paths, by their types. Errors: `Unsupported` for the host's own.
pub fn named(spec: &Spec) -> Result<BTreeMap<String, Named>> {
    let mut named = BTreeMap::new();
    let namespaces = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten());
    for namespace in namespaces {
        let kind = namespace.typ();
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        let Some(path) = path else { continue };
        if matches!(kind, LinuxNamespaceType::Network | LinuxNamespaceType::Mount) {
            continue;
        }
        let what = || format!("linux.namespaces: {kind} namespace {}", path.display());
        let found = match process(path) {
            Some(pid) => Named::Process(pid),
            None => {
                let found = identity(path).attempt(what)?;
                let file = path_of(kind);
                if identity(Path::new(&file)).attempt(what)? == found {
                    return Err(Error::new(Kind::Unsupported, what()).because(HOST));
                }
                Named::Prepared(found)
            }
        };
        named.insert(kind.to_string(), found);
    }
    Ok(named)
}

/// Why a namespace of the host is none for a container.
pub const HOST: &str = "it is of the host's kernel, and no container of this sandbox has it; a container shares namespaces with those whose \
                        network it joins";

/// For the agent.
pub fn request(kind: &str, container: Option<String>) -> Namespace {
    Namespace {
        type_: kind.to_owned(),
        container: container.unwrap_or_default(),
        ..Namespace::default()
    }
}

/// The process in `/proc/<pid>/ns/<file>`.
fn process(path: &Path) -> Option<u32> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter();
    let pid = parts.next()?.to_str()?.parse().ok()?;
    (parts.next()? == "ns" && parts.count() == 1).then_some(pid)
}

fn identity(path: &Path) -> Result<Identity> {
    let found = std::fs::metadata(path).attempt(|| format!("look at {}", path.display()))?;
    Ok((found.st_dev(), found.st_ino()))
}

/// Ours, which is the host's.
fn path_of(kind: LinuxNamespaceType) -> String {
    let file = match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Time => "time",
    };
    format!("/proc/self/ns/{file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(namespaces: &str) -> Result<BTreeMap<String, Named>> {
        let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":{namespaces}}}}}"#);
        named(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn paths_lead_to_processes_or_to_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = identity(file.path()).unwrap();
        let json = format!(
            r#"[{{"type":"ipc","path":"/proc/4711/ns/ipc"}},{{"type":"uts","path":"{}"}},{{"type":"pid"}},
                {{"type":"network","path":"/run/netns/n"}},{{"type":"mount","path":"/m"}},{{"type":"user","path":""}}]"#,
            file.path().display()
        );
        let want = BTreeMap::from([
            ("ipc".to_owned(), Named::Process(4711)),
            ("uts".to_owned(), Named::Prepared(identity)),
        ]);
        assert_eq!(read(&json).unwrap(), want);
    }

    #[test]
    fn the_hosts_own_are_refused_and_missing_ones_named() {
        let own = read(r#"[{"type":"ipc","path":"/proc/self/ns/ipc"}]"#).unwrap_err();
        assert_eq!(own.kind(), Kind::Unsupported);
        assert!(
            own.chain().contains("ipc namespace /proc/self/ns/ipc"),
            "{}",
            own.chain()
        );
        let missing = read(r#"[{"type":"uts","path":"/run/utsns/no-such"}]"#).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        for path in ["/proc/1/ns/ipc/x", "/proc/x/ns/ipc", "/proc/1/fd/3", "/run/1/ns/ipc"] {
            assert_eq!(process(Path::new(path)), None, "{path}");
        }
    }
}
