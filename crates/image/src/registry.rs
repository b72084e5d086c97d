// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Pulls from a registry (OCI distribution API): token authentication, anonymous or with what `docker login` left,
//! manifests, and blobs that stream to disk several at a time. Plain http is spoken on loopback only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use base64::Engine;
use futures_util::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::runtime::Runtime;

use crate::digest::Digest;
use crate::job::{Job, Step};
use crate::layout::check;
use crate::manifest::{Document, Layer, MANIFEST, choose};
use crate::store::Store;

/// Blobs that are fetched at once.
const PARALLEL: usize = 3;
/// Tries per blob.
const TRIES: usize = 3;
const CONNECT: Duration = Duration::from_secs(30);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a wish to stop may go unseen.
const GLANCE: Duration = Duration::from_millis(100);

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// One image's registry.
pub(crate) struct Registry {
    client: Client,
    runtime: Runtime,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// Connects to nothing yet. Errors: `Unsupported` without certificates to trust.
    pub(crate) fn new(reference: &Reference) -> Result<Registry> {
        let registry = reference.resolve_registry();
        // A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            let why = "no certificates of authorities found: install the package ca-certificates";
            return Err(Error::new(Kind::Unsupported, why));
        }
        let protocol = if is_loopback(registry) {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("kata/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let tried = || format!("prepare to pull from {registry}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .attempt(tried)?;
        Ok(Registry {
            client: Client::try_from(config).context(Kind::Io, tried)?,
            runtime,
            reference: reference.clone(),
            auth: credentials(registry, docker_config().as_deref()),
        })
    }

    /// The manifest for this machine, checked.
    pub(crate) fn manifest(&self, job: &Job) -> Result<Vec<u8>> {
        let what = self.reference.whole();
        let bytes = self.document(&self.reference, job)?;
        if let Some(digest) = self.reference.digest() {
            check(&Digest::of(&bytes), &Digest::parse(digest)?, &what)?;
        }
        let Document::Index(index) = Document::parse(&bytes, &what)? else {
            return Ok(bytes);
        };
        let digest = Digest::parse(choose(&index, None, &what)?.digest().as_ref())?;
        let reference = self.reference.clone_with_digest(digest.to_string());
        let bytes = self.document(&reference, job)?;
        check(&Digest::of(&bytes), &digest, &what)?;
        match Document::parse(&bytes, &what)? {
            Document::Manifest(_) => Ok(bytes),
            Document::Index(_) => Err(Error::new(
                Kind::Invalid,
                format!("{what} has an index within its index"),
            )),
        }
    }

    fn document(&self, reference: &Reference, job: &Job) -> Result<Vec<u8>> {
        let what = reference.whole();
        let pulled = self.client.pull_manifest_raw(reference, &self.auth, ACCEPTED);
        let (bytes, _) = self.block_on(job, pulled)?.map_err(|e| refused(e, &what))?;
        if bytes.len() as u64 > MANIFEST {
            return Err(Error::new(
                Kind::Invalid,
                format!("the manifest of {what} is too large"),
            ));
        }
        Ok(bytes.to_vec())
    }

    /// A small blob, checked.
    pub(crate) fn small_blob(&self, digest: &Digest, size: u64, limit: u64, job: &Job) -> Result<Vec<u8>> {
        let what = self.reference.whole();
        if size > limit {
            return Err(Error::new(
                Kind::Invalid,
                format!("the configuration of {what} is too large"),
            ));
        }
        let mut bytes = Vec::new();
        let tries = async {
            self.stream(digest, size, |chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            })
            .await
        };
        self.block_on(job, tries)??;
        Ok(bytes)
    }

    /// Fetches layers into the store, several at a time; those it has are left out.
    pub(crate) fn fetch(&self, layers: &[&Layer], store: &Store, job: &Job) -> Result<()> {
        let mut seen = BTreeSet::new();
        let wanted = layers
            .iter()
            .filter(|layer| seen.insert(&layer.blob) && !store.blob_path(&layer.blob).exists());
        let fetches = wanted.map(|layer| self.fetch_one(layer, store, job));
        let mut fetches = futures_util::stream::iter(fetches).buffer_unordered(PARALLEL);
        let all = async {
            while let Some(fetched) = fetches.next().await {
                fetched?;
            }
            Ok(())
        };
        self.block_on(job, all)?
    }

    async fn fetch_one(&self, layer: &Layer, store: &Store, job: &Job) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.try_one(layer, store, job).await {
                Err(e) if tries < TRIES && e.kind() == Kind::Gone => {
                    log::info!("{}: trying again", e.chain());
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn try_one(&self, layer: &Layer, store: &Store, job: &Job) -> Result<()> {
        let mut meter = job.progress.begin(Step::Download, layer.blob.short(), Some(layer.size));
        let room = store.room()?;
        let path = room.path().join("blob");
        let tried = || format!("write {}", path.display());
        let mut file = File::create(&path).attempt(tried)?;
        let written = self.stream(&layer.blob, layer.size, |chunk| {
            meter.advance(chunk.len() as u64);
            file.write_all(chunk).attempt(tried)
        });
        written.await?;
        store.keep_blob(&path, &layer.blob)
    }

    /// Hands over a blob's chunks, which are the blob only if there is no error in the end.
    /// Errors: `Gone` when the connection broke, `Invalid` when the content is another or longer than said.
    async fn stream(&self, digest: &Digest, size: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let what = self.reference.whole();
        let descriptor = OciDescriptor {
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let answer = self.client.pull_blob_stream(&self.reference, &descriptor).await;
        let mut stream = answer.map_err(|e| refused(e, &what))?.stream;
        let mut length: u64 = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| {
                let changed = e.get_ref().is_some_and(|inner| inner.is::<DigestError>());
                let kind = if changed { Kind::Invalid } else { Kind::Gone };
                Error::new(kind, format!("fetch the blob {digest} of {what}")).because(e)
            })?;
            length = length.saturating_add(chunk.len() as u64);
            if length > size {
                let why = format!("{what} is broken: the blob {digest} is longer than {size} bytes");
                return Err(Error::new(Kind::Invalid, why));
            }
            take(&chunk)?;
        }
        Ok(())
    }

    /// Waits, but not longer than wanted.
    fn block_on<T>(&self, job: &Job, work: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::pin!(work);
            loop {
                job.cancel.check()?;
                if let Ok(done) = tokio::time::timeout(GLANCE, &mut work).await {
                    return Ok(done);
                }
            }
        })
    }
}

/// The registry's answer as one of our errors: what it says is all that the user can act on.
fn refused(error: OciDistributionError, what: &str) -> Error {
    let codes = match &error {
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.as_slice(),
        _ => &[],
    };
    let says = |code: &OciErrorCode| codes.iter().any(|error| error.code == *code);
    let missing = [
        OciErrorCode::ManifestUnknown,
        OciErrorCode::NameUnknown,
        OciErrorCode::NotFound,
    ];
    let secret = [OciErrorCode::Unauthorized, OciErrorCode::Denied];
    if matches!(error, OciDistributionError::ImageManifestNotFoundError(_)) || missing.iter().any(says) {
        return Error::new(Kind::NotFound, format!("the registry has no image {what}"));
    }
    let refusal = matches!(
        error,
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. }
    );
    if refusal || secret.iter().any(says) {
        return Error::new(Kind::Denied, format!("the registry refuses access to {what}")).because(error);
    }
    let kind = if matches!(error, OciDistributionError::RequestError(_)) {
        Kind::Gone
    } else {
        Kind::Io
    };
    Error::new(kind, format!("pull {what}")).because(error)
}

/// Whether a registry's `HOST[:PORT]` is this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Where `docker login` keeps its answers.
fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
    dir.map(|dir| dir.join("config.json"))
}

/// Name and password for a registry. Credential helpers are other programs, which we do not run.
fn credentials(registry: &str, config: Option<&Path>) -> RegistryAuth {
    let found = config.and_then(|path| std::fs::read(path).ok()).and_then(|bytes| {
        let parsed: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let auths = parsed.get("auths")?;
        let hub = registry == "index.docker.io" || registry == "docker.io";
        let key = if hub { "https://index.docker.io/v1/" } else { registry };
        let entry = auths.get(key).or_else(|| auths.get(format!("https://{registry}")))?;
        let packed = entry.get("auth")?.as_str()?;
        let plain = base64::engine::general_purpose::STANDARD.decode(packed).ok()?;
        let (name, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
        Some(RegistryAuth::Basic(name.to_owned(), password.to_owned()))
    });
    found.unwrap_or(RegistryAuth::Anonymous)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_without_encryption() {
        for here in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for away in [
            "docker.io",
            "localhost.example.com:5000",
            "10.0.0.1:5000",
            "[2001:db8::1]:5000",
            "127.example:1",
        ] {
            assert!(!is_loopback(away), "{away}");
        }
    }

    #[test]
    fn credentials_come_from_dockers_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = r#"{"auths": {"r.example:5000": {"auth": "bWU6c2U6Y3JldA=="}, "https://index.docker.io/v1/": {"auth": "YTpi"}}}"#;
        std::fs::write(&path, text).unwrap();
        let of = |registry: &str| credentials(registry, Some(&path));
        assert_eq!(of("r.example:5000"), RegistryAuth::Basic("me".into(), "se:cret".into()));
        assert_eq!(of("index.docker.io"), RegistryAuth::Basic("a".into(), "b".into()));
        assert_eq!(of("other.example"), RegistryAuth::Anonymous);
        assert_eq!(credentials("x", None), RegistryAuth::Anonymous);
    }
}
