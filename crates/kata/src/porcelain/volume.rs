// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `-v` and `--tmpfs`: how they are written, and the mounts of the spec that they mean.

use std::fs;
use std::path::{Component, Path, PathBuf};

use base::{Context, Error, Kind, Result};
use serde_json::{Value, json};

use super::name;

/// Taken and without effect: labels and caches of the host end at the machine, and volumes begin empty.
const IGNORED: [&str; 6] = ["z", "Z", "cached", "delegated", "consistent", "nocopy"];
/// Passed on to the guest.
const PASSED: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "bind",
    "rbind",
    "noatime",
    "nodiratime",
];

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// Absolute or below the working directory.
    Path(PathBuf),
    /// By name, kept until it is removed by hand.
    Named(String),
    /// Nameless, gone with its container.
    Fresh,
}

/// One `-v`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    source: Source,
    pub target: PathBuf,
    options: Vec<String>,
}

/// An absolute path in the container, without `.` and `..`.
fn target(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    if !path.is_absolute() || !plain {
        return Err(Error::new(Kind::Invalid, format!("{text:?} is not an absolute path")));
    }
    if path.parent().is_none() {
        return Err(Error::new(Kind::Invalid, "the target must not be /"));
    }
    Ok(path.components().collect())
}

impl Volume {
    /// `SOURCE:TARGET[:OPTIONS]` or `TARGET`. Errors: `Invalid`, naming the text.
    pub fn parse(text: &str) -> Result<Volume> {
        Volume::parts(text).attempt(|| format!("volume {text:?}"))
    }

    fn parts(text: &str) -> Result<Volume> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, to, options) = match parts[..] {
            [to] => (None, to, ""),
            [from, to] => (Some(from), to, ""),
            [from, to, options] => (Some(from), to, options),
            _ => return Err(Error::new(Kind::Invalid, "not SOURCE:TARGET[:OPTIONS]")),
        };
        let source = match source {
            None => Source::Fresh,
            Some(from) if from.contains('/') || from == "." || from == ".." => Source::Path(from.into()),
            Some(from) => {
                name::check(from)?;
                Source::Named(from.to_owned())
            }
        };
        let mut kept = Vec::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            if PASSED.contains(&option) {
                kept.push(option.to_owned());
            } else if !IGNORED.contains(&option) {
                return Err(Error::new(Kind::Invalid, format!("unknown option {option:?}")));
            }
        }
        Ok(Volume {
            source,
            target: target(to)?,
            options: kept,
        })
    }

    /// Finds or makes its directory; `named` holds the volumes with a name, `fresh` is for one without. The answer is the mount of
    /// the spec.
    pub fn mount(&self, named: &Path, fresh: &Path) -> Result<Value> {
        let path = match &self.source {
            Source::Path(path) => std::path::absolute(path).attempt(|| format!("find {}", path.display()))?,
            Source::Named(name) => named.join(name),
            Source::Fresh => fresh.to_owned(),
        };
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir_all(&path).attempt(|| format!("create directory {}", path.display()))?;
        }
        let path = fs::canonicalize(&path).attempt(|| format!("volume {}", path.display()))?;
        let mut options = self.options.clone();
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".into());
        }
        if !options
            .iter()
            .any(|option| ["private", "shared", "slave"].contains(&option.strip_prefix('r').unwrap_or(option)))
        {
            options.push("rprivate".into());
        }
        Ok(json!({ "destination": self.target, "type": "bind", "source": path, "options": options }))
    }
}

/// The mount that `TARGET[:OPTIONS]` asks for. Errors: `Invalid`, naming the text.
pub fn tmpfs(text: &str) -> Result<Value> {
    let (to, options) = text.split_once(':').unwrap_or((text, ""));
    let to = target(to).attempt(|| format!("tmpfs {text:?}"))?;
    let asked: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    let mut all: Vec<&str> = Vec::new();
    for default in ["nosuid", "nodev", "noexec"] {
        if !asked.contains(&&default[2..]) && !asked.contains(&default) {
            all.push(default);
        }
    }
    all.extend(asked);
    Ok(json!({ "destination": to, "type": "tmpfs", "source": "tmpfs", "options": all }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways_to_write_a_volume() {
        let parse = |text: &str| Volume::parse(text).unwrap();
        let volume = parse("/a/../b:/c//d/:ro,z");
        assert_eq!(volume.source, Source::Path("/a/../b".into()));
        assert_eq!(
            (volume.target.to_str(), &volume.options[..]),
            (Some("/c/d"), &["ro".to_owned()][..])
        );
        assert_eq!(parse("./x:/y").source, Source::Path("./x".into()));
        assert_eq!(parse(".:/y").source, Source::Path(".".into()));
        assert_eq!(parse("data:/y").source, Source::Named("data".into()));
        assert_eq!(parse("/y").source, Source::Fresh);
        for (bad, why) in [
            ("a:b", "not an absolute path"),
            ("/a:/", "must not be /"),
            ("/a:/b/../c", "not an absolute path"),
            ("/a:/b:frob", "unknown option \"frob\""),
            ("a:b:c:d", "SOURCE:TARGET"),
            ("-x:/b", "is not a name"),
            ("", "not an absolute path"),
        ] {
            let chain = Volume::parse(bad).unwrap_err().chain();
            assert!(chain.contains(why), "{chain}");
        }
    }

    #[test]
    fn what_does_not_exist_is_made_as_a_directory() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let (named, fresh) = (top.join("named"), top.join("fresh"));
        fs::write(top.join("file"), "").unwrap();
        for (text, source) in [
            (format!("{}/new/dir:/t", top.display()), top.join("new/dir")),
            (format!("{}/file:/t:ro", top.display()), top.join("file")),
            ("data:/t".to_owned(), named.join("data")),
            ("/t".to_owned(), fresh.clone()),
        ] {
            let mount = Volume::parse(&text).unwrap().mount(&named, &fresh).unwrap();
            assert_eq!(mount["source"], source.to_str().unwrap());
            assert!(source.exists());
        }
        let file = Volume::parse(&format!("{}/file:/t:ro", top.display())).unwrap();
        assert_eq!(
            file.mount(&named, &fresh).unwrap()["options"],
            json!(["ro", "rbind", "rprivate"])
        );
    }

    #[test]
    fn a_tmpfs_is_careful_unless_told_otherwise() {
        assert_eq!(tmpfs("/t").unwrap()["options"], json!(["nosuid", "nodev", "noexec"]));
        let mount = tmpfs("/t:exec,size=1m").unwrap();
        assert_eq!(mount["options"], json!(["nosuid", "nodev", "exec", "size=1m"]));
        assert!(tmpfs("t").is_err());
    }
}
