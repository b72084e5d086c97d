// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A directory with `config.json` and a root file system. What is wrong with it is told in one line, before anything is made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use oci_spec::runtime::{Hook, LinuxResources, Process, Spec};

/// An opened bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    rootfs: PathBuf,
    spec: Spec,
    json: Vec<u8>,
}

/// When a hook of the host runs ("Posix-platform Hooks" of the specification). `createContainer` and `startContainer` belong to
/// the container's namespaces, so to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the container was created, before its process starts (deprecated name).
    Prestart,
    /// As [`Moment::Prestart`], after those.
    CreateRuntime,
    /// After the process has started.
    Poststart,
    /// After the container was deleted.
    Poststop,
}

impl Moment {
    /// As the specification spells it.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }
}

impl Bundle {
    /// Opens and checks the bundle in `dir`. Errors: `NotFound` for what is missing, `Invalid` for what makes no sense; they name
    /// the file, and for JSON the line and column.
    pub fn open(dir: &Path) -> Result<Bundle> {
        let dir = fs::canonicalize(dir).attempt(|| format!("open bundle {}", dir.display()))?;
        let file = dir.join("config.json");
        let json = fs::read(&file).attempt(|| format!("read {}", file.display()))?;
        Bundle::parse(dir, json)
    }

    /// As [`Bundle::open`], with the bytes of `config.json` at hand; `dir` is absolute.
    pub fn parse(dir: PathBuf, json: Vec<u8>) -> Result<Bundle> {
        let file = dir.join("config.json");
        let spec: Spec =
            serde_json::from_slice(&json).context(Kind::Invalid, || format!("parse {}", file.display()))?;
        check(&spec).attempt(|| format!("check {}", file.display()))?;
        let root = spec
            .root()
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Invalid, format!("check {}: root is missing", file.display())))?;
        let path = dir.join(root.path());
        let rootfs = fs::canonicalize(&path).attempt(|| format!("invalid rootfs: stat {}", path.display()))?;
        if !rootfs.is_dir() {
            let what = format!("invalid rootfs: {} is not a directory", path.display());
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(Bundle {
            dir,
            rootfs,
            spec,
            json,
        })
    }

    /// Absolute, without symlinks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Absolute, without symlinks; a directory when it was looked at.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// The whole spec; `process` and `root` are there.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// `config.json` as it was read.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The process that `start` starts.
    pub fn process(&self) -> Option<&Process> {
        self.spec.process().as_ref()
    }

    /// True when the process wants a terminal.
    pub fn terminal(&self) -> bool {
        self.process().and_then(Process::terminal).unwrap_or(false)
    }

    /// Limits, where there are any.
    pub fn resources(&self) -> Option<&LinuxResources> {
        self.spec.linux().as_ref()?.resources().as_ref()
    }

    /// Annotations, if any.
    pub fn annotations(&self) -> Option<&HashMap<String, String>> {
        self.spec.annotations().as_ref()
    }

    /// What the annotations ask of us. Errors: `Invalid`, naming the annotation.
    pub fn overrides(&self) -> Result<crate::Overrides> {
        self.annotations()
            .map_or_else(|| Ok(crate::Overrides::default()), crate::Overrides::parse)
    }

    /// Its part in a pod, as the engine's annotations tell. Errors: `Invalid`, naming the annotation.
    pub fn part(&self) -> Result<Option<crate::pod::Part>> {
        self.annotations().map_or(Ok(None), crate::pod::part)
    }

    /// The host's hooks for a moment, in order.
    pub fn hooks(&self, moment: Moment) -> &[Hook] {
        let Some(hooks) = self.spec.hooks() else {
            return &[];
        };
        #[allow(deprecated, reason = "engines still send prestart")]
        let list = match moment {
            Moment::Prestart => hooks.prestart(),
            Moment::CreateRuntime => hooks.create_runtime(),
            Moment::Poststart => hooks.poststart(),
            Moment::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, what)
}

fn check(spec: &Spec) -> Result<()> {
    check_version(spec.version())?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| invalid("process property must not be empty"))?;
    check_process(process)?;
    if let Some(hooks) = spec.hooks() {
        #[allow(deprecated, reason = "engines still send prestart")]
        let lists = [
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ];
        for hook in lists.into_iter().flatten().flatten() {
            if !hook.path().is_absolute() {
                return Err(invalid(format!("hook path {:?} is not absolute", hook.path())));
            }
        }
    }
    Ok(())
}

/// What holds for every process, of `config.json` or of `exec --process`.
pub fn check_process(process: &Process) -> Result<()> {
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(invalid("cwd property must not be empty"));
    }
    if !cwd.is_absolute() {
        return Err(invalid(format!("cwd must be an absolute path, not {}", cwd.display())));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("args must not be empty"));
    }
    Ok(())
}

fn check_version(version: &str) -> Result<()> {
    if version.is_empty() {
        return Err(invalid("ociVersion is missing"));
    }
    let number = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<Option<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
    match parts[..] {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(invalid(format!("ociVersion {version} is not supported, 1.x is"))),
        _ => Err(invalid(format!("ociVersion {version:?} is not a version"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"ociVersion":"1.0.2-dev","root":{"path":"rootfs"},
        "process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"}}"#;

    fn bundle(json: &str) -> (tempfile::TempDir, Result<Bundle>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        fs::write(dir.path().join("config.json"), json).unwrap();
        let opened = Bundle::open(dir.path());
        (dir, opened)
    }

    #[test]
    fn a_good_bundle_opens() {
        let (dir, opened) = bundle(GOOD);
        let opened = opened.unwrap();
        assert_eq!(
            opened.rootfs(),
            fs::canonicalize(dir.path()).unwrap().join("rootfs").as_path()
        );
        assert_eq!(opened.json(), GOOD.as_bytes());
        assert!(!opened.terminal());
        assert!(opened.hooks(Moment::Prestart).is_empty());
    }

    #[test]
    fn each_mistake_is_named() {
        let cases = [
            (
                "{\"ociVersion\":\n oops}",
                "config.json: expected value at line 2 column 2",
            ),
            (&GOOD.replace("1.0.2-dev", "2.0.0"), "ociVersion 2.0.0 is not supported"),
            (&GOOD.replace("1.0.2-dev", "one"), "\"one\" is not a version"),
            (
                &GOOD.replace("\"ociVersion\":\"1.0.2-dev\",", ""),
                "ociVersion is missing",
            ),
            (
                &GOOD.replace("\"rootfs\"", "\"gone\""),
                "/gone: No such file or directory",
            ),
            (
                &GOOD.replace("\"rootfs\"", "\"config.json\""),
                "config.json is not a directory",
            ),
            (&GOOD.replace("[\"sh\"]", "[]"), "args must not be empty"),
            (
                &GOOD.replace("\"cwd\":\"/\"", "\"cwd\":\"x\""),
                "cwd must be an absolute path",
            ),
            (
                "{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"rootfs\"}}",
                "process property must not be empty",
            ),
        ];
        for (json, words) in cases {
            let (_dir, opened) = bundle(json);
            let chain = opened.unwrap_err().chain();
            assert!(chain.contains(words), "{words:?} in {chain:?}");
            assert!(!chain.contains('\n'), "{chain}");
        }
        let none = Bundle::open(Path::new("/no/such/bundle")).unwrap_err();
        assert_eq!(none.kind(), Kind::NotFound);
    }

    #[test]
    fn the_hosts_hooks_are_found_by_moment() {
        let hooks = r#""hooks":{"prestart":[{"path":"/a"}],"poststop":[{"path":"/b","timeout":3}]},"root""#;
        let (_dir, opened) = bundle(&GOOD.replace("\"root\"", hooks));
        let opened = opened.unwrap();
        assert_eq!(opened.hooks(Moment::Prestart)[0].path(), Path::new("/a"));
        assert_eq!(opened.hooks(Moment::Poststop)[0].timeout(), Some(3));
        assert!(opened.hooks(Moment::Poststart).is_empty());
    }
}
