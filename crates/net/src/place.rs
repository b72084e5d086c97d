// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which network namespace a sandbox lives in: decided by the spec, before anything is made.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use oci::spec::{LinuxNamespaceType, Spec};

/// Of this thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// A name that only one process of a network namespace can have, and which goes with it. To whoever connects it says which sandbox it
/// is of: a path, and a newline.
const CLAIM: &[u8] = b"kata-machine";
/// How long that one may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest path.
const LONGEST: u64 = 4097;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One of its own, without interfaces: nobody brings any.
    Empty,
    /// One of its own, without interfaces at first: an engine may add some through the pid of the container, by its hooks or between
    /// create and start.
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
            Some(_) if hooked(spec) || named(spec) => Ok(Place::Fresh),
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

    /// Moves this thread there, and what it starts from now on. Errors: `State` when another machine is there.
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
            Ok(socket) => Ok(Claim {
                place: self.clone(),
                socket,
            }),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                let what = match self {
                    Place::Empty | Place::Fresh => "claim a network namespace".to_owned(),
                    Place::Prepared(path) => format!("join network namespace {}", path.display()),
                };
                let why = "the machine of another sandbox is in it, and two machines cannot share a network stack";
                Err(Error::new(Kind::State, what).because(why))
            }
            Err(e) => Err(e).attempt(|| "claim a network namespace".into()),
        }
    }
}

impl Place {
    /// The sandbox whose machine is there, by its directory. Errors: `Denied` when somebody else than us holds its name.
    pub fn holder(&self) -> Result<Option<PathBuf>> {
        let Place::Prepared(path) = self else {
            return Ok(None);
        };
        let what = || format!("ask for the sandbox in network namespace {}", path.display());
        let namespace = File::open(path).attempt(what)?;
        // A thread can look into a namespace without moving its process.
        let asked = std::thread::Builder::new().spawn(move || ask(&namespace));
        let asked = asked.attempt(what)?.join();
        asked
            .unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the thread that asks has ended")))
            .attempt(what)
    }
}

fn ask(namespace: &File) -> Result<Option<PathBuf>> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).attempt(|| "enter it".into())?;
    let name = SocketAddr::from_abstract_name(CLAIM).attempt(|| "name a socket".into())?;
    let socket = match UnixStream::connect_addr(&name) {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
        other => other.attempt(|| "connect to it".into())?,
    };
    let peer = getsockopt(&socket, PeerCredentials).attempt(|| "look who it is".into())?;
    if peer.uid() != geteuid().as_raw() {
        let why = format!("its name is held by process {} of user {}", peer.pid(), peer.uid());
        return Err(Error::new(Kind::Denied, why));
    }
    socket
        .set_read_timeout(Some(PATIENCE))
        .attempt(|| "limit the wait".into())?;
    let mut line = Vec::new();
    let read = BufReader::new(socket.take(LONGEST)).read_until(b'\n', &mut line);
    match read {
        // It ends, and lets go of the name.
        Ok(0) => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
        other => other.attempt(|| "read its answer".into())?,
    };
    line.pop();
    Ok(Some(PathBuf::from(OsString::from_vec(line))))
}

/// Programs of the engine run when the container is there: Docker before 28 ties its networks so.
fn hooked(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        #[allow(deprecated, reason = "engines still send prestart")]
        let lists = [hooks.prestart(), hooks.create_runtime(), hooks.poststart()];
        lists.into_iter().flatten().any(|list| !list.is_empty())
    })
}

/// The engine says where names are asked for: there is to be a network. Docker ties it between create and start, from 28 on, which
/// nothing else in the spec tells of.
fn named(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten();
    mounts.any(|mount| mount.destination() == Path::new("/etc/resolv.conf"))
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

/// The namespace is ours: no other machine takes it while the socket lives. It must be served, see [`answer`].
#[derive(Debug)]
pub struct Claim {
    /// What was entered.
    pub place: Place,
    /// Who asks for us connects here.
    pub socket: UnixListener,
}

/// What somebody who connects to a claim's socket is told: the sandbox in `dir` is here.
pub fn answer(dir: &Path) -> Vec<u8> {
    let mut line = dir.as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use nix::unistd::gettid;

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
        let json = r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"network"}]},"mounts":[{"destination":"/etc/NAME"}]}"#;
        for (name, expected) in [("resolv.conf", Place::Fresh), ("hosts", Place::Empty)] {
            let spec = serde_json::from_str(&json.replace("NAME", name)).unwrap();
            assert_eq!(Place::of(&spec).unwrap(), expected, "{name}");
        }
        let host = place(r#"[{"type":"pid"}]"#).unwrap_err();
        assert_eq!(host.kind(), Kind::Unsupported);
        assert!(host.chain().starts_with("host network: "), "{}", host.chain());
        let bare = serde_json::from_str(r#"{"ociVersion":"1.0.2"}"#).unwrap();
        assert_eq!(Place::of(&bare).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn a_claimed_namespace_says_whose_it_is_and_has_one_machine() {
        if !geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let entered = std::thread::spawn(|| {
            let claim = Place::Fresh.enter().unwrap();
            let path = PathBuf::from(format!("/proc/self/task/{}/ns/net", gettid()));
            let place = Place::Prepared(path);
            let asked = place.clone();
            let asks = std::thread::spawn(move || asked.holder().unwrap());
            let (mut client, _) = claim.socket.accept().unwrap();
            std::io::Write::write_all(&mut client, &answer(Path::new("/r/@a b"))).unwrap();
            drop(client);
            assert_eq!(asks.join().unwrap().as_deref(), Some(Path::new("/r/@a b")));
            assert_eq!(place.enter().unwrap_err().kind(), Kind::State);
            drop(claim);
            assert_eq!(place.holder().unwrap(), None);
            place.enter().unwrap();
        });
        entered.join().unwrap();
        assert_eq!(Place::Empty.holder().unwrap(), None);
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
