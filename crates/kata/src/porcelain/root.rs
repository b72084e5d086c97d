// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a container's root file system is made of: an image of the store, or a directory as it is.

use std::path::{Path, PathBuf};

use api::task::api::Mount;
use base::{Error, Kind, Result};
use image::{Image, Job, Source, Store};

use super::arguments::Pull;
use super::progress;
use super::record::Place;

/// See the module.
#[derive(Debug)]
pub enum Root {
    Image(Box<Image>),
    Directory(PathBuf),
}

/// What an image says of its containers; nothing for a directory.
#[derive(Debug, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub environment: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stop_signal: Option<String>,
}

/// Opens or pulls an image by its name. Files are asked each time whether they have changed, registries when the name is not here.
pub fn image(store: &Store, source: &Source, pull: Option<Pull>, quiet: bool, cancel: image::Cancel) -> Result<Image> {
    let pull = pull.unwrap_or(match source {
        Source::Registry(_) => Pull::Missing,
        _ => Pull::Always,
    });
    if pull != Pull::Always
        && let Some(image) = store.find(source)?
    {
        return Ok(image);
    }
    if pull == Pull::Never {
        return Err(Error::new(
            Kind::NotFound,
            format!("no image {source} here, and --pull=never"),
        ));
    }
    let job = Job {
        progress: progress::choose(quiet),
        cancel,
    };
    store.pull(source, &job)
}

impl Root {
    /// `images` is the directory of the store.
    pub fn open(name: &str, pull: Option<Pull>, images: &Path, cancel: image::Cancel) -> Result<Root> {
        match Source::parse(name)? {
            Source::Rootfs(dir) => Ok(Root::Directory(dir)),
            source => {
                let store = Store::open(images)?;
                image(&store, &source, pull, false, cancel).map(|image| Root::Image(Box::new(image)))
            }
        }
    }

    /// In full.
    pub fn name(&self) -> String {
        match self {
            Root::Image(image) => image.name.clone(),
            Root::Directory(dir) => format!("rootfs:{}", dir.display()),
        }
    }

    pub fn config(&self) -> Config {
        let Root::Image(image) = self else {
            return Config::default();
        };
        let Some(config) = image.config.config() else {
            return Config::default();
        };
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Config {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            command: config.cmd().clone().unwrap_or_default(),
            environment: config.env().clone().unwrap_or_default(),
            cwd: text(config.working_dir()),
            user: text(config.user()),
            stop_signal: text(config.stop_signal()),
        }
    }

    /// Chain ids of the layers, which must stay while the container is there.
    pub fn chains(&self) -> Vec<String> {
        match self {
            Root::Image(image) => image.chains.iter().map(ToString::to_string).collect(),
            Root::Directory(_) => Vec::new(),
        }
    }

    /// The directories, the topmost first.
    pub fn layers(&self) -> Vec<PathBuf> {
        match self {
            Root::Image(image) => image.layers.clone(),
            Root::Directory(dir) => vec![dir.clone()],
        }
    }

    /// `root.path` of the spec.
    pub fn path(&self) -> &Path {
        match self {
            Root::Image(_) => Path::new("rootfs"),
            Root::Directory(dir) => dir,
        }
    }

    /// What the monitor mounts there.
    pub fn mounts(&self, place: &Place) -> Result<Vec<Mount>> {
        let Root::Image(image) = self else {
            return Ok(Vec::new());
        };
        let overlay = Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: image.overlay(&place.upper(), &place.work())?,
            ..Mount::default()
        };
        Ok(vec![overlay])
    }
}
