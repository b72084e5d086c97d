// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Pulls over http on loopback: from a server of ours that wants tokens and misbehaves on request, and from the
//! registry that Debian has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Kind, Result};
use fixture::{Layout, as_root, assert_clean, has, read, run};
use image::{Image, Job, Source, Store};

/// A registry of one layout; each request is told to it by path.
struct Registry {
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// What is served wrongly: the path's end, and how.
type Faults = BTreeMap<String, Fault>;

#[derive(Clone, Copy)]
enum Fault {
    /// One byte differs.
    Changed,
    /// The connection ends early, the first time only.
    CutOnce,
    /// More bytes than were promised.
    Longer,
}

impl Registry {
    fn serve(layout: &Path, faults: Faults) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (layout, own, told) = (layout.to_owned(), address.clone(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (layout, own, told, faults) = (layout.clone(), own.clone(), told.clone(), faults.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &layout, &own, &told, &faults));
            }
        });
        Registry { address, log }
    }

    fn asked_for(&self, part: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.contains(part))
            .count()
    }
}

fn answer(stream: TcpStream, layout: &Path, own: &str, log: &Mutex<Vec<String>>, faults: &Faults) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut stream = stream;
    let request = lines.next().unwrap().unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .collect();
    let first = !log.lock().unwrap().contains(&path);
    log.lock().unwrap().push(path.clone());
    let mut say = |status: &str, extra: &str, length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{extra}\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body))
    };
    let allowed = headers
        .iter()
        .any(|header| header.eq_ignore_ascii_case("authorization: bearer open sesame"));
    let file = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let _ = if path.starts_with("/token?") {
        assert!(path.contains("repository%3Ame%2Fx%3Apull"), "{path}");
        let body = br#"{"token": "open sesame"}"#;
        say("200 OK", "", body.len(), body)
    } else if !allowed {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"stub\"\r\n");
        say("401 Unauthorized", &challenge, 0, b"")
    } else if let Some(name) = path.strip_prefix("/v2/me/x/manifests/") {
        let index = fs::read_to_string(layout.join("index.json")).unwrap();
        let bytes = match name {
            "v1" => Some(index.into_bytes()),
            digest => fs::read(file(digest)).ok(),
        };
        match bytes {
            Some(bytes) => {
                let kind = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
                say("200 OK", kind, bytes.len(), &bytes)
            }
            None => {
                let body = br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "none"}]}"#;
                say("404 Not Found", "Content-Type: application/json\r\n", body.len(), body)
            }
        }
    } else if let Some(digest) = path.strip_prefix("/v2/me/x/blobs/") {
        let mut bytes = fs::read(file(digest)).unwrap();
        let mut length = bytes.len();
        match faults.get(digest) {
            Some(Fault::Changed) => bytes[10] ^= 1,
            Some(Fault::CutOnce) if first => bytes.truncate(20),
            Some(Fault::Longer) => {
                bytes.extend_from_slice(&[0; 100]);
                length = bytes.len();
            }
            _ => {}
        }
        say("200 OK", "", length, &bytes)
    } else {
        say("200 OK", "", 0, b"")
    };
}

fn pull(store: &Path, reference: &str) -> Result<Image> {
    Store::open(store)?.pull(&Source::parse(reference)?, &Job::default())
}

/// The digest of the usual image's layer `index`.
fn layer(index: usize) -> String {
    image::Digest::of(&fixture::usual_layers()[index].0).to_string()
}

#[test]
fn a_registry_with_tokens_gives_an_image_once() {
    if !as_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    Layout::usual(&dir.path().join("img"));
    let registry = Registry::serve(&dir.path().join("img"), Faults::new());
    let reference = format!("docker://{}/me/x:v1", registry.address);
    let image = pull(&store, &reference).unwrap();
    assert_eq!(read(&image, "/etc/c").as_deref(), Some("three"));
    assert_eq!((registry.asked_for("/token"), registry.asked_for(&layer(0))), (1, 1));
    pull(&store, &reference).unwrap();
    assert_eq!(registry.asked_for(&layer(0)), 1);
    // Packed layers are not kept beside the unpacked ones: manifest and configuration stay.
    assert_eq!(fs::read_dir(store.join("blobs/sha256")).unwrap().count(), 2);
    let by_digest = format!("{}/me/x@{}", registry.address, image.id);
    assert_eq!(pull(&store, &by_digest).unwrap().id, image.id);
}

#[test]
fn a_registry_that_misbehaves_gives_one_line_and_leaves_nothing() {
    if !as_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    Layout::usual(&dir.path().join("img"));
    let refused = |faults: Faults, tag: &str, kind: Kind, says: &str| {
        let registry = Registry::serve(&dir.path().join("img"), faults);
        let error = pull(&store, &format!("{}/me/x:{tag}", registry.address)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.chain().contains(says), "{}", error.chain());
        assert_clean(&store);
    };
    refused(Faults::new(), "v9", Kind::NotFound, "has no image");
    refused(Faults::from([(layer(1), Fault::Longer)]), "v1", Kind::Invalid, "longer");
    refused(
        Faults::from([(layer(1), Fault::Changed)]),
        "v1",
        Kind::Invalid,
        "sha256",
    );
    // A broken connection is tried again.
    let registry = Registry::serve(&dir.path().join("img"), Faults::from([(layer(0), Fault::CutOnce)]));
    pull(&dir.path().join("fresh"), &format!("{}/me/x:v1", registry.address)).unwrap();
    assert_eq!(registry.asked_for(&layer(0)), 2);
    // Nobody listens.
    let error = pull(&store, "127.0.0.1:1/me/x:v1").unwrap_err();
    assert!(
        error.chain().starts_with("pull 127.0.0.1:1/me/x:v1: "),
        "{}",
        error.chain()
    );
}

/// Debian's registry, for as long as it lives.
struct Debian(Child, String);

impl Debian {
    fn start(dir: &Path) -> Debian {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            dir.join("registry").display()
        );
        fs::write(dir.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if TcpStream::connect(&address).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Debian(child, address)
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn debians_registry_is_pulled_from() {
    if !as_root() || !has("docker-registry") || !has("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Debian::start(dir.path());
    let layout = Layout::usual(&dir.path().join("img"));
    let from = format!("oci:{}", layout.0.display());
    let to = format!("docker://{}/team/app:v1", registry.1);
    for format in ["oci", "v2s2"] {
        run(
            "skopeo",
            &["copy", "-q", "--dest-tls-verify=false", "--format", format, &from, &to],
        );
        let image = pull(&dir.path().join("store"), &to).unwrap();
        assert_eq!(read(&image, "/etc/b").as_deref(), Some("two"), "{format}");
    }
    let error = pull(&dir.path().join("store"), &format!("{}/team/none", registry.1)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}
