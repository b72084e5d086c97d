// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a user names an image: a place on this machine, or a reference to a registry.

use std::fmt;
use std::path::{Path, PathBuf, absolute};

use base::{Context, Error, Kind, Result};
use oci_client::Reference;

/// Where an image, or a root file system, is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Layout {
        /// Absolute.
        dir: PathBuf,
        /// `org.opencontainers.image.ref.name` in its index.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REFERENCE]` or `oci-archive:FILE[:TAG]`: what `docker save` or `skopeo copy` writes,
    /// packed or not.
    Archive {
        /// Absolute.
        file: PathBuf,
        /// Which of its images.
        reference: Option<String>,
    },
    /// `docker://REFERENCE`, or a reference alone.
    Registry(Reference),
    /// `rootfs:DIR`: no image, a directory that is used as it is.
    Rootfs(PathBuf),
}

impl Source {
    /// Errors: `Invalid` for what is no reference, `NotFound` for a place that does not exist.
    pub fn parse(text: &str) -> Result<Source> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = place(rest, Path::is_dir, "directory")?;
            return Ok(Source::Layout { dir, tag });
        }
        for prefix in ["docker-archive:", "oci-archive:"] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (file, reference) = place(rest, Path::is_file, "file")?;
                return Ok(Source::Archive { file, reference });
            }
        }
        if let Some(dir) = text.strip_prefix("rootfs:") {
            return match place(dir, Path::is_dir, "directory")? {
                (dir, None) => Ok(Source::Rootfs(dir)),
                (_, Some(_)) => Err(Error::new(Kind::NotFound, format!("no directory {dir}"))),
            };
        }
        let reference = text.strip_prefix("docker://").unwrap_or(text);
        let reference = reference.parse();
        reference
            .context(Kind::Invalid, || format!("{text:?} is not an image"))
            .map(Source::Registry)
    }
}

/// The one name of this source, whatever spelling it was given in.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, kind: &str, path: &Path, tag: &Option<String>| match tag {
            Some(tag) => write!(f, "{kind}:{}:{tag}", path.display()),
            None => write!(f, "{kind}:{}", path.display()),
        };
        match self {
            Source::Layout { dir, tag } => with(f, "oci", dir, tag),
            Source::Archive { file, reference } => with(f, "docker-archive", file, reference),
            Source::Registry(reference) => write!(f, "{}", reference.whole()),
            Source::Rootfs(dir) => with(f, "rootfs", dir, &None),
        }
    }
}

/// Splits `PATH[:TAG]`, where both may hold colons: the longest path that exists counts.
fn place(text: &str, exists: fn(&Path) -> bool, what: &str) -> Result<(PathBuf, Option<String>)> {
    let mut end = text.len();
    loop {
        let path = Path::new(&text[..end]);
        if exists(path) {
            let path = absolute(path).attempt(|| format!("find {}", path.display()))?;
            return Ok((
                path,
                text.get(end + 1..).filter(|tag| !tag.is_empty()).map(str::to_owned),
            ));
        }
        match text[..end].rfind(':') {
            Some(colon) => end = colon,
            None => return Err(Error::new(Kind::NotFound, format!("no {what} {text}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_may_hold_colons_and_so_may_tags() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a:b");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(top.path().join("x.tar"), "").unwrap();
        let parse = |text: String| Source::parse(&text);
        let layout = |tag: Option<&str>| Source::Layout {
            dir: dir.clone(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(parse(format!("oci:{}", dir.display())).unwrap(), layout(None));
        assert_eq!(parse(format!("oci:{}:v1", dir.display())).unwrap(), layout(Some("v1")));
        let archive = format!("docker-archive:{}/x.tar:localhost:5000/a:v1", top.path().display());
        let Source::Archive { reference, .. } = parse(archive.clone()).unwrap() else {
            panic!("not an archive")
        };
        assert_eq!(reference.as_deref(), Some("localhost:5000/a:v1"));
        assert_eq!(parse(archive.clone()).unwrap().to_string(), archive);
        assert_eq!(parse("oci:/no/such".into()).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(parse("rootfs:/:x".into()).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(parse("rootfs:/".into()).unwrap(), Source::Rootfs("/".into()));
    }

    #[test]
    fn references_get_their_full_name() {
        for (text, name) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker://a/b:c", "docker.io/a/b:c"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("127.0.0.1:5000/x/y:z", "127.0.0.1:5000/x/y:z"),
        ] {
            assert_eq!(Source::parse(text).unwrap().to_string(), name);
        }
        for bad in ["", "UPPER", "a b", "docker://", "x@sha256:12"] {
            assert_eq!(Source::parse(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
