// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which network namespace a sandbox lives in: decided by the spec, before anything is made.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::sched::{CloneFlags, setns, unshare};
use oci::spec::{LinuxNamespaceType, Spec};

/// Of this thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// A name that only one process of a network namespace can have, and which goes with it.
const CLAIM: &[u8] = b"kata-machine";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One of its own, without interfaces: nobody brings any.
    Empty,
    /// One of its own, without interfaces at first: an engine's hooks may add some through the pid of the container.
    Fresh,
    /// The one that the engine has prepared.
    Prepared(PathBuf),
}

impl Place {
    /// What `spec` asks for. Errors: `Unsupported` for the host's network.
    pub fn of(spec: &Spec) -> Result<Place> {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let network = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        match network.map(|network| network.path().as_deref()) {
            None => Err(host_network()),
            Some(Some(path)) if !path.as_os_str().is_empty() => {
                if same(path, Path::new(OWN))? {
                    return Err(host_network());
                }
                Ok(Place::Prepared(path.to_owned()))
            }
            Some(_) if hooked(spec) => Ok(Place::Fresh),
            Some(_) => Ok(Place::Empty),
        }
    }

    /// How many interfaces may come after the machine was made.
    pub fn expected(&self) -> usize {
        match self {
            Place::Fresh => 2,
            Place::Prepared(_) => 1,
            Place::Empty => 0,
        }
    }

    /// Moves this thread there, and what it starts from now on. Errors: `Unsupported` when another machine is there.
    pub fn enter(&self) -> Result<Claim> {
        match self {
            Place::Empty | Place::Fresh => {
                unshare(CloneFlags::CLONE_NEWNET).attempt(|| "make a network namespace".into())?;
            }
            Place::Prepared(path) => {
                let what = || format!("join network namespace {}", path.display());
                let namespace = File::open(path).attempt(what)?;
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).attempt(what)?;
            }
        }
        let name = SocketAddr::from_abstract_name(CLAIM).attempt(|| "name a socket".into())?;
        match UnixListener::bind_addr(&name) {
            Ok(claim) => Ok(Claim {
                place: self.clone(),
                _socket: claim,
            }),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                let what = match self {
                    Place::Empty | Place::Fresh => "claim a network namespace".to_owned(),
                    Place::Prepared(path) => format!("join network namespace {}", path.display()),
                };
                let why = "the machine of another container is in it, and two machines cannot share a network stack \
                           (container:… networks, pods of containers that are created one by one)";
                Err(Error::new(Kind::Unsupported, what).because(why))
            }
            Err(e) => Err(e).attempt(|| "claim a network namespace".into()),
        }
    }
}

/// Programs of the engine run when the container is there: Docker ties its networks so.
fn hooked(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        #[allow(deprecated, reason = "engines still send prestart")]
        let lists = [hooks.prestart(), hooks.create_runtime(), hooks.poststart()];
        lists.into_iter().flatten().any(|list| !list.is_empty())
    })
}

fn host_network() -> Error {
    let why =
        "a machine has a network stack of its own and cannot use the host's; give the container a network or none";
    Error::new(Kind::Unsupported, "host network").because(why)
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).attempt(|| format!("find network namespace {}", path.display()))?;
        Ok((found.st_dev(), found.st_ino()))
    };
    Ok(identity(one)? == identity(other)?)
}

/// The namespace is ours: no other machine takes it while this lives.
#[derive(Debug)]
pub struct Claim {
    place: Place,
    _socket: UnixListener,
}

impl Claim {
    /// The same namespace, for another use: it is one of our own, and empty so far.
    pub fn reuse(self, place: Place) -> Claim {
        Claim { place, ..self }
    }

    /// What was entered.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(namespaces: &str) -> Result<Place> {
        let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":{namespaces}}}}}"#);
        Place::of(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn the_spec_decides() {
        assert_eq!(place(r#"[{"type":"pid"},{"type":"network"}]"#).unwrap(), Place::Empty);
        assert_eq!(place(r#"[{"type":"network","path":""}]"#).unwrap(), Place::Empty);
        let json = r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"network"}]},"hooks":{"prestart":[{"path":"/h"}]}}"#;
        assert_eq!(Place::of(&serde_json::from_str(json).unwrap()).unwrap(), Place::Fresh);
        let host = place(r#"[{"type":"pid"}]"#).unwrap_err();
        assert_eq!(host.kind(), Kind::Unsupported);
        assert!(host.chain().starts_with("host network: "), "{}", host.chain());
        let bare = serde_json::from_str(r#"{"ociVersion":"1.0.2"}"#).unwrap();
        assert_eq!(Place::of(&bare).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn our_own_namespace_is_the_hosts_and_a_missing_one_is_named() {
        let own = place(r#"[{"type":"network","path":"/proc/self/ns/net"}]"#).unwrap_err();
        assert!(own.chain().starts_with("host network: "), "{}", own.chain());
        let missing = place(r#"[{"type":"network","path":"/run/netns/no-such"}]"#).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(
            missing
                .chain()
                .starts_with("find network namespace /run/netns/no-such: ")
        );
    }
}
