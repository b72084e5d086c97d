// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `start`: one server for each container, or for all containers of a pod. containerd is told where it listens in the manner of its
//! version: 1.6 takes a bare address, 1.7 to 2.2 JSON, later ones a message.

use std::fs;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use api::task::bootstrap_api::{BootstrapParams, BootstrapResult};
use base::{Context, Error, Kind, Result};
use oci::Bundle;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use sha2::{Digest, Sha256};

use super::arguments::Arguments;
use super::options;

/// Where shims have their sockets, by containerd's custom.
const SOCKETS: &str = "/run/containerd/s";
/// In the bundle: where the shim listens. containerd looks here when it is restarted.
const ADDRESS: &str = "address";
/// Containers with the same value have one shim: that of the container of this id.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// The newest version of the Task service that we speak.
const NEWEST: u32 = 3;
/// Most that containerd has to say.
const SAID: u64 = 4 << 20;

/// How containerd wants to be told.
#[derive(Debug, PartialEq, Eq)]
enum Manner {
    /// 1.6.
    Bare,
    /// 1.7 and later, with the newest version that they take.
    Json(u32),
    /// 2.3 and later.
    Message,
}

/// Starts the server if there is none yet, and prints where it listens.
pub fn start(kind: &str, arguments: &Arguments) -> Result<()> {
    let heard = heard()?;
    let said = said(&heard, &arguments.id);
    let directory = said.as_ref().and_then(|said| said.socket_dir.clone());
    let directory = directory.filter(|path| !path.is_empty());
    let directory = PathBuf::from(directory.unwrap_or_else(|| SOCKETS.to_owned()));
    let bundle = arguments.bundle()?;
    let (group, config) = match Bundle::open(&bundle) {
        // A pod that is left to us has none yet. Which configuration it is to have is said here only.
        Err(e) if e.kind() == Kind::NotFound => (None, wanted_config(&heard, said.as_ref())?),
        opened => (group(&opened?), None),
    };
    let group = group.unwrap_or_else(|| arguments.id.clone());
    let socket = socket(&directory, &arguments.address, &arguments.namespace, &group);
    if let Some(listener) = claim(&socket)? {
        let mut server = server(kind, arguments, &bundle, &socket, said.as_ref());
        if let Some(config) = &config {
            server.env(config::selection::FILE, config);
        }
        let server = serve(server, listener);
        if server.is_err() {
            let _ = fs::remove_file(&socket);
        }
        server?;
    }
    let address = format!("unix://{}", socket.display());
    base::file::replace(&bundle.join(ADDRESS), address.as_bytes())?;
    let newest = std::env::var("MAX_SHIM_VERSION").ok();
    let reply = reply(&manner(said.is_some(), newest.as_deref())?, &address)?;
    std::io::stdout()
        .write_all(&reply)
        .attempt(|| "write to standard output".into())
}

/// Removes the socket that the bundle's server has left, if nobody listens any more.
pub fn forget(bundle: &Path) -> Result<()> {
    let Ok(address) = fs::read_to_string(bundle.join(ADDRESS)) else {
        return Ok(());
    };
    let Some(socket) = address.trim().strip_prefix("unix://").map(Path::new) else {
        return Ok(());
    };
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    match fs::remove_file(socket) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.attempt(|| format!("remove {}", socket.display())),
    }
}

/// Standard input.
fn heard() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let mut bytes = Vec::new();
    if !stdin.is_terminal() {
        let read = stdin.lock().take(SAID).read_to_end(&mut bytes);
        read.attempt(|| "read standard input".into())?;
    }
    Ok(bytes)
}

/// What containerd 2.3 says there. Earlier ones send the runtime's options.
fn said(heard: &[u8], id: &str) -> Option<BootstrapParams> {
    let said = BootstrapParams::parse_from_bytes(heard).ok();
    said.filter(|said| said.instance_id == id && !said.namespace.is_empty())
}

/// The configuration file that the runtime's options name.
fn wanted_config(heard: &[u8], said: Option<&BootstrapParams>) -> Result<Option<String>> {
    match Any::parse_from_bytes(heard) {
        Ok(given) if said.is_none() => options::file(&given),
        _ => Ok(None),
    }
}

fn group(bundle: &Bundle) -> Option<String> {
    let annotations = bundle.annotations()?;
    GROUPS.iter().find_map(|key| annotations.get(*key)).cloned()
}

/// One place for each group of each namespace of each containerd.
fn socket(directory: &Path, address: &str, namespace: &str, group: &str) -> PathBuf {
    let place = Path::new(address).join(namespace).join(group);
    let hash = Sha256::digest(place.as_os_str().as_encoded_bytes());
    directory.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Listens; `None` when the group's server does so already.
fn claim(socket: &Path) -> Result<Option<UnixListener>> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(directory);
    made.attempt(|| format!("make directory {}", directory.display()))?;
    let what = || format!("listen on {}", socket.display());
    match UnixListener::bind(socket) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => {}
        other => return other.attempt(what).map(Some),
    }
    if UnixStream::connect(socket).is_ok() {
        return Ok(None);
    }
    // Its server was killed.
    fs::remove_file(socket).attempt(|| format!("remove {}", socket.display()))?;
    UnixListener::bind(socket).attempt(what).map(Some)
}

/// The server's command line.
fn server(kind: &str, arguments: &Arguments, bundle: &Path, socket: &Path, said: Option<&BootstrapParams>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(super::program(kind));
    command.args(["-namespace", &arguments.namespace, "-id", &arguments.id]);
    command
        .args(["-address", &arguments.address])
        .arg("-bundle")
        .arg(bundle);
    command.arg("-socket").arg(socket);
    let debug = arguments.debug || said.is_some_and(|said| said.log_level.value() < 0);
    if debug {
        command.arg("-debug");
    }
    if let Some(said) = said {
        command.env("TTRPC_ADDRESS", &said.containerd_ttrpc_address);
    }
    command.arg("serve");
    command
}

/// Starts it with the listener as its standard input.
fn serve(mut command: Command, listener: UnixListener) -> Result<()> {
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = base::inherited::spawn(&mut command, &[]);
    child.attempt(|| "start the server".into()).map(drop)
}

fn manner(message: bool, newest: Option<&str>) -> Result<Manner> {
    match newest {
        _ if message => Ok(Manner::Message),
        None => Ok(Manner::Bare),
        Some(text) => {
            let newest = text.parse::<u32>();
            let newest = newest.context(Kind::Invalid, || format!("MAX_SHIM_VERSION {text:?}"))?;
            Ok(Manner::Json(newest))
        }
    }
}

fn reply(manner: &Manner, address: &str) -> Result<Vec<u8>> {
    match manner {
        Manner::Bare => Ok(address.as_bytes().to_vec()),
        Manner::Json(newest) => {
            let version = NEWEST.min(*newest);
            if version < 2 {
                let what = format!("containerd takes shims up to version {newest} only, this one is of version 2 or 3");
                return Err(Error::new(Kind::Unsupported, what));
            }
            let reply = serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" });
            Ok(reply.to_string().into_bytes())
        }
        Manner::Message => {
            let result = BootstrapResult {
                version: NEWEST.cast_signed(),
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            };
            result.write_to_bytes().context(Kind::Bug, || "write the answer".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_containerd_is_told_in_its_manner() {
        let told = |message, newest: Option<&str>| reply(&manner(message, newest).unwrap(), "unix:///s").unwrap();
        assert_eq!(told(false, None), b"unix:///s");
        for (newest, version) in [("2", 2), ("3", 3), ("4", 3)] {
            let json: serde_json::Value = serde_json::from_slice(&told(false, Some(newest))).unwrap();
            let want = serde_json::json!({ "version": version, "address": "unix:///s", "protocol": "ttrpc" });
            assert_eq!(json, want);
        }
        let result = BootstrapResult::parse_from_bytes(&told(true, Some("3"))).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
        assert!(manner(false, Some("x")).is_err());
        assert!(reply(&Manner::Json(1), "").is_err());
    }

    #[test]
    fn the_runtimes_options_name_a_configuration() {
        let options = |path: &str| {
            let options = api::runtime_options::Options {
                config_path: path.to_owned(),
                ..api::runtime_options::Options::default()
            };
            let any = Any {
                type_url: "runtimeoptions.v1.Options".into(),
                value: options.write_to_bytes().unwrap(),
                ..Any::default()
            };
            any.write_to_bytes().unwrap()
        };
        let wanted = |heard: &[u8]| wanted_config(heard, None);
        assert_eq!(wanted(&options("/k.toml")).unwrap().as_deref(), Some("/k.toml"));
        assert_eq!(wanted(b"").unwrap(), None);
        assert_eq!(
            wanted_config(&options("/k.toml"), Some(&BootstrapParams::new())).unwrap(),
            None
        );
        assert!(wanted(&options("k.toml")).unwrap_err().chain().contains("ConfigPath"));
    }

    #[test]
    fn containers_of_a_pod_have_one_socket() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        let bundle = |annotations: serde_json::Value| {
            let spec = serde_json::json!({
                "ociVersion": "1.0.2", "root": { "path": "rootfs" }, "annotations": annotations,
                "process": { "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": "/" }
            });
            Bundle::parse(dir.path().to_owned(), spec.to_string().into_bytes()).unwrap()
        };
        let pod = bundle(serde_json::json!({ "io.kubernetes.cri.sandbox-id": "pod" }));
        assert_eq!(group(&pod).as_deref(), Some("pod"));
        assert_eq!(group(&bundle(serde_json::json!({}))), None);
        // printf /run/c.sock/k8s.io/pod | sha256sum
        let path = socket(Path::new("/s"), "/run/c.sock", "k8s.io", "pod");
        let hash = "38138e4874f26e8ce76444b36581ce66ea8351d93519073ce147ed85aaa71da7";
        assert_eq!(path, Path::new("/s").join(hash));
    }

    #[test]
    fn a_socket_is_claimed_once_and_again_after_a_server_that_was_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/x");
        let first = claim(&path).unwrap().unwrap();
        assert!(claim(&path).unwrap().is_none());
        drop(first);
        let again = claim(&path).unwrap();
        assert!(again.is_some());
        fs::write(dir.path().join(ADDRESS), format!("unix://{}", path.display())).unwrap();
        forget(dir.path()).unwrap();
        assert!(path.exists(), "somebody listens");
        drop(again);
        forget(dir.path()).unwrap();
        assert!(!path.exists());
        forget(dir.path()).unwrap();
    }
}
