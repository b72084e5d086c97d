// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! An image that is ready to run: its configuration and its unpacked layers; and how a [`Store`] comes by it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use time::OffsetDateTime;

use crate::archive::Archive;
use crate::attributes::Attributes;
use crate::compression::unpacked;
use crate::digest::{Digest, Hashing};
use crate::job::{Job, Metered, Step};
use crate::layout::{self, Directory, blob_name, check, small_blob};
use crate::manifest::{self, CONFIGURATION, Document, Layer};
use crate::refs::Named;
use crate::registry::Registry;
use crate::source::Source;
use crate::stack::Stack;
use crate::store::{InUse, Store};
use crate::unpack::unpack;

/// An unpacked image. While it lives, nobody removes its content.
#[derive(Debug)]
pub struct Image {
    /// The full name.
    pub name: String,
    /// Digest of the manifest.
    pub id: Digest,
    /// What its author wants.
    pub config: ImageConfiguration,
    /// Chain ids of its layers, the lowest first.
    pub chains: Vec<Digest>,
    /// The layers' directories in overlayfs format, the topmost first, by short links.
    pub layers: Vec<PathBuf>,
    _in_use: InUse,
}

/// Parsed documents of an image.
pub(crate) struct Documents {
    pub(crate) config_digest: Digest,
    pub(crate) config: ImageConfiguration,
    pub(crate) layers: Vec<Layer>,
}

pub(crate) fn documents(store: &Store, id: &Digest, name: &str) -> Result<Documents> {
    let manifest = store.document(id)?;
    let Document::Manifest(manifest) = Document::parse(&manifest, name)? else {
        return Err(Error::new(
            Kind::Bug,
            format!("an index is kept as the manifest of {name}"),
        ));
    };
    let config_digest = Digest::parse(manifest.config().digest().as_ref())?;
    let config = manifest::configuration(&store.document(&config_digest)?, name)?;
    let layers = manifest::layers(&manifest, &config, name)?;
    Ok(Documents {
        config_digest,
        config,
        layers,
    })
}

impl Image {
    /// The image's files.
    pub fn stack(&self) -> Result<Stack> {
        Stack::open(&self.layers)
    }

    /// Options of an overlayfs mount whose changes go to `upper`, with `work` beside it; makes both.
    /// Errors: `Unsupported` when they do not fit the page that the kernel has for them.
    pub fn overlay(&self, upper: &Path, work: &Path) -> Result<Vec<String>> {
        for dir in [upper, work] {
            fs::create_dir_all(dir).attempt(|| format!("create directory {}", dir.display()))?;
        }
        if let Some(top) = self.layers.first() {
            // The merged root shows the upper directory's attributes.
            let tried = || format!("copy attributes of {}", top.display());
            let attributes = Attributes::of(&File::open(top).attempt(tried)?, None)?;
            attributes.apply(&File::open(upper).attempt(tried)?, None)?;
        }
        let escaped = |path: &Path| {
            let text = path
                .to_str()
                .map(|text| text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,"));
            text.ok_or_else(|| Error::new(Kind::Invalid, format!("{} is not UTF-8", path.display())))
        };
        let lower: Result<Vec<String>> = self.layers.iter().map(|layer| escaped(layer)).collect();
        let options = vec![
            format!("lowerdir={}", lower?.join(":")),
            format!("upperdir={}", escaped(upper)?),
            format!("workdir={}", escaped(work)?),
        ];
        if options.iter().map(|option| option.len() + 1).sum::<usize>() > 4096 {
            let why = format!("{} has too many layers ({}) to mount", self.name, self.layers.len());
            return Err(Error::new(Kind::Unsupported, why));
        }
        Ok(options)
    }
}

/// A source that has been opened.
enum Origin {
    Layout(Directory),
    Archive(Archive, BTreeMap<Digest, String>),
    Registry(Box<Registry>),
}

impl Origin {
    fn blob(&self, store: &Store, layer: &Layer, what: &str, job: &Job) -> Result<Box<dyn Read + '_>> {
        let missing = || {
            Error::new(
                Kind::Invalid,
                format!("{what} is broken: blob {} is missing", layer.blob),
            )
        };
        match self {
            Origin::Layout(files) => {
                let blob = layout::Files::open(files, &blob_name(&layer.blob))?;
                blob.map(|(bytes, _)| bytes).ok_or_else(missing)
            }
            Origin::Archive(archive, names) => archive.blob(&layer.blob, names),
            Origin::Registry(registry) => {
                // Whoever unpacked the same blob for another image has removed it.
                registry.fetch(&[layer], store, job)?;
                let path = store.blob_path(&layer.blob);
                Ok(Box::new(
                    File::open(&path).attempt(|| format!("open {}", path.display()))?,
                ))
            }
        }
    }
}

impl Store {
    /// An image that is here already, complete.
    pub fn find(&self, source: &Source) -> Result<Option<Image>> {
        let in_use = self.in_use()?;
        match self.refs().find(&source.to_string())? {
            Some(named) => self.load(&named, in_use),
            None => Ok(None),
        }
    }

    fn load(&self, named: &Named, in_use: InUse) -> Result<Option<Image>> {
        let documents = documents(self, &named.manifest, &named.name)?;
        let complete = documents
            .layers
            .iter()
            .all(|layer| self.layer_path(&layer.chain).is_dir());
        if !complete {
            return Ok(None);
        }
        self.image(&named.name, &named.manifest, documents, in_use).map(Some)
    }

    fn image(&self, name: &str, id: &Digest, documents: Documents, in_use: InUse) -> Result<Image> {
        let chains: Vec<Digest> = documents.layers.into_iter().map(|layer| layer.chain).collect();
        let layers: Result<Vec<PathBuf>> = chains.iter().rev().map(|chain| self.short(chain)).collect();
        Ok(Image {
            name: name.to_owned(),
            id: id.clone(),
            config: documents.config,
            chains,
            layers: layers?,
            _in_use: in_use,
        })
    }

    /// All names, sorted.
    pub fn list(&self) -> Result<Vec<Named>> {
        self.refs().list()
    }

    /// Forgets a name; [`Store::sweep`] removes the content. Errors: `NotFound`.
    pub fn forget(&self, name: &str) -> Result<()> {
        if self.refs().remove(name)? {
            Ok(())
        } else {
            Err(Error::new(Kind::NotFound, format!("no image {name}")))
        }
    }

    /// Opens or pulls an image anew: asks its source what the name means now, fetches and unpacks what is missing.
    ///
    /// Errors: `NotFound`, `Denied`, `Unsupported` (platform), `Invalid` (broken content), `Gone` (cancelled), `Io`. Nothing
    /// incomplete stays under a name.
    pub fn pull(&self, source: &Source, job: &Job) -> Result<Image> {
        let in_use = self.in_use()?;
        let what = source.to_string();
        let (origin, manifest) = match source {
            Source::Layout { dir, tag } => {
                let files = Directory(dir.clone());
                let manifest = layout::manifest(&files, tag.as_deref(), &what)?;
                (Origin::Layout(files), manifest)
            }
            Source::Archive { file, reference } => {
                let room = self.room()?;
                let path = room.path().join("archive");
                let make = || {
                    let made = File::options().read(true).write(true).create_new(true).open(&path);
                    made.attempt(|| format!("create {}", path.display()))
                };
                let archive = Archive::open(file, make, job)?;
                let (manifest, names) = archive.manifest(reference.as_deref(), &what)?;
                (Origin::Archive(archive, names), manifest)
            }
            Source::Registry(reference) => {
                let registry = Registry::new(reference)?;
                let manifest = registry.manifest(job)?;
                (Origin::Registry(Box::new(registry)), manifest)
            }
            Source::Rootfs(dir) => {
                let why = format!("{} is a directory, not an image", dir.display());
                return Err(Error::new(Kind::Invalid, why));
            }
        };
        let (documents, config, size) = self.describe(&origin, &manifest, &what, job)?;
        self.unpack_missing(&origin, &documents.layers, &what, job)?;
        self.keep_document(&config)?;
        let id = self.keep_document(&manifest)?;
        let named = Named {
            name: what,
            manifest: id,
            pulled: OffsetDateTime::now_utc(),
            size,
        };
        self.refs().set(&named)?;
        self.image(&named.name, &named.manifest, documents, in_use)
    }

    fn describe(&self, origin: &Origin, bytes: &[u8], what: &str, job: &Job) -> Result<(Documents, Vec<u8>, u64)> {
        let manifest: ImageManifest =
            serde_json::from_slice(bytes).context(Kind::Invalid, || format!("read the manifest of {what}"))?;
        manifest::check_is_image(&manifest, what)?;
        let config_digest = Digest::parse(manifest.config().digest().as_ref())?;
        let config = match origin {
            Origin::Layout(files) => small_blob(files, &config_digest, CONFIGURATION, what)?,
            Origin::Archive(archive, names) => {
                let mut bytes = Vec::new();
                let blob = archive.blob(&config_digest, names)?;
                blob.take(CONFIGURATION)
                    .read_to_end(&mut bytes)
                    .attempt(|| format!("read {what}"))?;
                check(&Digest::of(&bytes), &config_digest, what)?;
                bytes
            }
            Origin::Registry(registry) => {
                registry.small_blob(&config_digest, manifest.config().size(), CONFIGURATION, job)?
            }
        };
        let parsed = manifest::configuration(&config, what)?;
        let layers = manifest::layers(&manifest, &parsed, what)?;
        let size = layers
            .iter()
            .fold(config.len() as u64, |sum, layer| sum.saturating_add(layer.size));
        let documents = Documents {
            config_digest,
            config: parsed,
            layers,
        };
        Ok((documents, config, size))
    }

    fn unpack_missing(&self, origin: &Origin, layers: &[Layer], what: &str, job: &Job) -> Result<()> {
        let missing = |layer: &&Layer| !self.layer_path(&layer.chain).is_dir();
        if let Origin::Registry(registry) = origin {
            let wanted: Vec<&Layer> = layers.iter().filter(missing).collect();
            registry.fetch(&wanted, self, job)?;
        }
        let mut below: Vec<PathBuf> = Vec::new();
        for layer in layers {
            if missing(&layer) {
                let _mine = self.layer_lock(&layer.chain, &job.cancel)?;
                // Another process may have made it meanwhile.
                if missing(&layer) {
                    self.unpack_one(origin, layer, &below, what, job)?;
                }
            }
            below.insert(0, self.layer_path(&layer.chain));
        }
        for layer in layers {
            // Packed bytes are of no more use.
            let _ = fs::remove_file(self.blob_path(&layer.blob));
        }
        Ok(())
    }

    fn unpack_one(&self, origin: &Origin, layer: &Layer, below: &[PathBuf], what: &str, job: &Job) -> Result<()> {
        let tried = || format!("unpack layer {} of {what}", layer.blob.short());
        let room = self.room()?;
        let target = room.path().join("layer");
        fs::create_dir(&target).attempt(|| format!("create directory {}", target.display()))?;
        let blob = origin.blob(self, layer, what, job)?;
        let meter = job.progress.begin(Step::Unpack, layer.blob.short(), Some(layer.size));
        let packed = Metered::new(blob, meter, job.cancel.clone());
        let mut packed = Hashing::new(packed);
        let mut plain = Hashing::new(unpacked(&mut packed).attempt(tried)?);
        unpack(&mut plain, &target, below, &job.cancel).attempt(tried)?;
        let diff = plain.finish().attempt(tried)?;
        check(&packed.finish().attempt(tried)?, &layer.blob, what)?;
        if diff != layer.diff {
            let why = format!(
                "{what} is broken: layer {} unpacks to {diff}, not to {}",
                layer.blob, layer.diff
            );
            return Err(Error::new(Kind::Invalid, why));
        }
        self.keep_layer(&target, &layer.chain)
    }
}
