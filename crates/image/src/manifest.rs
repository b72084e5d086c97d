// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The JSON documents of an image: which manifest of an index is meant, what a manifest's layers are called once
//! they are unpacked, whether this machine can run it. Pure: bytes in, answers out.

use base::{Context, Error, Kind, Result};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};

use crate::digest::Digest;

/// Most bytes that a manifest or an index may have, as registries allow.
pub(crate) const MANIFEST: u64 = 4 << 20;
/// Most bytes that a configuration may have.
pub(crate) const CONFIGURATION: u64 = 8 << 20;

const TAG: &str = "org.opencontainers.image.ref.name";
const NAME: &str = "io.containerd.image.name";
const KIND: &str = "vnd.docker.reference.type";

/// A document of a manifest's address.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

impl Document {
    /// Told apart by their members: the media type may be absent.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Document> {
        let tried = || format!("read the manifest of {what}");
        let value: serde_json::Value = serde_json::from_slice(bytes).context(Kind::Invalid, tried)?;
        if value.get("manifests").is_some() {
            let index = serde_json::from_value(value).context(Kind::Invalid, tried)?;
            return Ok(Document::Index(Box::new(index)));
        }
        if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
            let why = format!("{what} has a manifest of schema 1, which is not supported");
            return Err(Error::new(Kind::Unsupported, why));
        }
        serde_json::from_value(value)
            .context(Kind::Invalid, tried)
            .map(|manifest| Document::Manifest(Box::new(manifest)))
    }
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations().as_ref()?.get(key).map(String::as_str)
}

/// The entry of an index that is meant: by tag where one is given, then by platform.
/// Errors: `NotFound` for an unknown tag, `Unsupported` when nothing is for this machine, `Invalid` when several are.
pub(crate) fn choose<'a>(index: &'a ImageIndex, tag: Option<&str>, what: &str) -> Result<&'a Descriptor> {
    let images = index
        .manifests()
        .iter()
        .filter(|one| annotation(one, KIND) != Some("attestation-manifest"));
    let images: Vec<&Descriptor> = images.collect();
    let tags = || {
        let tags: Vec<&str> = images.iter().filter_map(|one| annotation(one, TAG)).collect();
        tags.join(", ")
    };
    let named = |one: &Descriptor, tag: &str| annotation(one, TAG) == Some(tag) || annotation(one, NAME) == Some(tag);
    let tagged: Vec<&Descriptor> = match tag {
        Some(tag) => images.iter().copied().filter(|one| named(one, tag)).collect(),
        None => images.clone(),
    };
    if let (Some(tag), true) = (tag, tagged.is_empty()) {
        return Err(Error::new(
            Kind::NotFound,
            format!("{what} has no image {tag:?}, only: {}", tags()),
        ));
    }
    // An entry that names no platform is judged by its configuration, later.
    let fits = |one: &&Descriptor| match one.platform() {
        Some(platform) => *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64,
        None => true,
    };
    let mut fitting = tagged.iter().copied().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only),
        (Some(first), Some(_)) if tag.is_some() || tags().is_empty() => Ok(first),
        (Some(_), Some(_)) => {
            let why = format!("{what} holds several images: add :TAG with one of {}", tags());
            Err(Error::new(Kind::Invalid, why))
        }
        (None, _) => {
            let platforms = tagged.iter().filter_map(|one| one.platform().as_ref());
            let platforms: Vec<String> = platforms.map(|p| format!("{}/{}", p.os(), p.architecture())).collect();
            let have = if platforms.is_empty() {
                "nothing".into()
            } else {
                platforms.join(", ")
            };
            let why = format!("{what} has no image for linux/amd64: it has {have}");
            Err(Error::new(Kind::Unsupported, why))
        }
    }
}

/// Parses the configuration and sees that this machine can run it.
/// Errors: `Unsupported` for another platform, `Invalid` for something else than a container image.
pub(crate) fn configuration(bytes: &[u8], what: &str) -> Result<ImageConfiguration> {
    let tried = || format!("read the configuration of {what}");
    let parsed: ImageConfiguration = serde_json::from_slice(bytes).context(Kind::Invalid, tried)?;
    if *parsed.os() != Os::Linux || *parsed.architecture() != Arch::Amd64 {
        let why = format!(
            "{what} is for {}/{}: this machine runs linux/amd64",
            parsed.os(),
            parsed.architecture()
        );
        return Err(Error::new(Kind::Unsupported, why));
    }
    Ok(parsed)
}

/// One layer, packed and unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Of its packed bytes.
    pub(crate) blob: Digest,
    /// Packed bytes.
    pub(crate) size: u64,
    /// Of its archive.
    pub(crate) diff: Digest,
    /// Of the stack up to it.
    pub(crate) chain: Digest,
}

/// The layers, the lowest first.
/// Errors: `Invalid` when manifest and configuration disagree or something is no layer.
pub(crate) fn layers(manifest: &ImageManifest, config: &ImageConfiguration, what: &str) -> Result<Vec<Layer>> {
    let diffs = config.rootfs().diff_ids();
    if diffs.len() != manifest.layers().len() {
        let why = format!(
            "{what} is broken: its manifest has {} layers, its configuration {}",
            manifest.layers().len(),
            diffs.len()
        );
        return Err(Error::new(Kind::Invalid, why));
    }
    let mut layers: Vec<Layer> = Vec::new();
    for (descriptor, diff) in manifest.layers().iter().zip(diffs) {
        if descriptor.media_type().to_string().ends_with("+encrypted") {
            return Err(Error::new(Kind::Unsupported, format!("{what} has encrypted layers")));
        }
        let diff = Digest::parse(diff)?;
        layers.push(Layer {
            blob: Digest::parse(descriptor.digest().as_ref())?,
            size: descriptor.size(),
            chain: Digest::chain(layers.last().map(|below| &below.chain), &diff),
            diff,
        });
    }
    Ok(layers)
}

/// Refuses what is distributed like an image but is none (charts, signatures, modules).
pub(crate) fn check_is_image(manifest: &ImageManifest, what: &str) -> Result<()> {
    let kind = manifest.config().media_type();
    let docker = "application/vnd.docker.container.image.v1+json";
    if *kind == MediaType::ImageConfig || kind.to_string() == docker {
        return Ok(());
    }
    let why = format!("{what} is not a container image: its configuration is {kind}");
    Err(Error::new(Kind::Invalid, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(digit: char, platform: Option<(&str, &str)>, tag: Option<&str>) -> serde_json::Value {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
            "digest": format!("sha256:{}", digit.to_string().repeat(64)),
        });
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        if let Some(tag) = tag {
            entry["annotations"] = json!({TAG: tag});
        }
        entry
    }

    fn pick(entries: &[serde_json::Value], tag: Option<&str>) -> Result<String> {
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let Document::Index(index) = Document::parse(index.as_bytes(), "x")? else {
            panic!("not an index")
        };
        choose(&index, tag, "x").map(|one| one.digest().to_string()[7..8].to_owned())
    }

    #[test]
    fn an_index_is_searched_by_tag_then_by_platform() {
        let arm = entry('a', Some(("linux", "arm64")), Some("v1"));
        let amd = entry('b', Some(("linux", "amd64")), Some("v1"));
        let old = entry('c', Some(("linux", "amd64")), Some("v0"));
        let bare = entry('d', None, None);
        assert_eq!(pick(&[arm.clone(), amd.clone()], None).unwrap(), "b");
        assert_eq!(pick(&[arm.clone(), amd.clone(), old.clone()], Some("v0")).unwrap(), "c");
        assert_eq!(pick(&[bare], None).unwrap(), "d");
        let error = pick(&[amd.clone(), old], None).unwrap_err();
        assert!(
            error.kind() == Kind::Invalid && error.chain().contains("v1, v0"),
            "{error}"
        );
        let error = pick(std::slice::from_ref(&arm), None).unwrap_err();
        assert!(
            error.kind() == Kind::Unsupported && error.chain().contains("linux/arm64"),
            "{error}"
        );
        assert_eq!(pick(&[amd], Some("v9")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(pick(&[], None).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn another_platform_and_old_schemas_are_refused_by_name() {
        let config = json!({"os": "linux", "architecture": "s390x", "rootfs": {"type": "layers", "diff_ids": []}});
        let error = configuration(config.to_string().as_bytes(), "x").unwrap_err();
        assert_eq!(error.chain(), "x is for linux/s390x: this machine runs linux/amd64");
        let error = Document::parse(b"{\"schemaVersion\": 1}", "x").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(Document::parse(b"<html>", "x").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn nulls_of_dockers_configurations_are_no_error() {
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Hostname": "", "Env": null, "Cmd": null, "Entrypoint": null, "Labels": null, "Volumes": null,
                       "ExposedPorts": null, "OnBuild": null, "User": "", "WorkingDir": ""},
            "history": null, "container_config": {}, "docker_version": "20.10"
        });
        assert!(configuration(config.to_string().as_bytes(), "x").is_ok());
    }
}
