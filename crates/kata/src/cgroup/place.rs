// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where a spec wants a container's processes: `linux.cgroupsPath` as runc reads it. It knows names, no file systems.

use std::path::{Component, Path, PathBuf};

use base::{Error, Kind, Result};
use oci::Bundle;

use super::systemd::Scope;

/// A group in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Below the root of the hierarchy.
    Absolute(PathBuf),
    /// Beside or below the group of whoever asks.
    Relative(PathBuf),
    /// As `Absolute`: where systemd, if it runs, puts this scope.
    Scope(PathBuf, Scope),
}

/// The slice for those who name none.
const SLICE: &str = "system.slice";

impl Place {
    /// For container `id` with this bundle, and whether its spec names the group. Errors: `Invalid`.
    pub fn wanted(bundle: &Bundle, id: &str, systemd: bool) -> Result<(Place, bool)> {
        let linux = bundle.spec().linux().as_ref();
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let named = path.is_some_and(|path| !path.as_os_str().is_empty());
        Ok((Place::of(path, id, systemd)?, named))
    }

    /// For container `id` whose spec has `path`, if any; `systemd` when the engine passed `--systemd-cgroup`. Errors: `Invalid`.
    pub fn of(path: Option<&Path>, id: &str, systemd: bool) -> Result<Place> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if systemd {
            return scope(path, id);
        }
        Ok(match path {
            None => Place::Relative(id.into()),
            Some(path) if path.is_absolute() => Place::Absolute(clean(path)),
            Some(path) => Place::Relative(clean(path)),
        })
    }
}

/// Without `.`, without a leading `/`, and never above where it starts.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// The scope `slice:prefix:name`; a name that is a slice's is a group that nobody is asked for.
fn scope(path: Option<&Path>, id: &str) -> Result<Place> {
    let text = path.map_or_else(|| format!(":kata:{id}"), |path| path.to_string_lossy().into_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(refused(&text, "with --systemd-cgroup it is slice:prefix:name"));
    };
    if name.is_empty() || name.contains('/') || prefix.contains('/') {
        return Err(refused(&text, "prefix and name are names, without a slash"));
    }
    let slice = if slice.is_empty() { SLICE } else { slice };
    let dir = expand(slice, &text)?;
    if name.ends_with(".slice") {
        return Ok(Place::Absolute(dir.join(name)));
    }
    let name = match prefix {
        "" => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    };
    let slice = slice.to_owned();
    Ok(Place::Scope(dir.join(&name), Scope { slice, name }))
}

/// A slice stands below those that its name begins with: `a-b.slice` is `a.slice/a-b.slice`.
fn expand(slice: &str, text: &str) -> Result<PathBuf> {
    let stem = slice.strip_suffix(".slice");
    let Some(stem) = stem.filter(|stem| !stem.is_empty() && !slice.contains('/')) else {
        return Err(refused(text, "its first part is the name of a slice, as machine.slice"));
    };
    let mut dir = PathBuf::new();
    if stem == "-" {
        return Ok(dir);
    }
    let mut name = String::new();
    for word in stem.split('-') {
        if word.is_empty() {
            return Err(refused(text, "the name of its slice has an empty word"));
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(word);
        dir.push(format!("{name}.slice"));
    }
    Ok(dir)
}

fn refused(text: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, format!("cgroupsPath {text:?}")).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, systemd: bool) -> Result<Place> {
        Place::of(Some(Path::new(path)), "c1", systemd)
    }

    #[test]
    fn paths_are_read_as_runc_reads_them() {
        let absolute = |path: &str| Place::Absolute(path.into());
        let relative = |path: &str| Place::Relative(path.into());
        assert_eq!(Place::of(None, "c1", false).unwrap(), relative("c1"));
        for (path, want) in [
            ("", relative("c1")),
            ("/a/b", absolute("a/b")),
            ("/../a/./b", absolute("a/b")),
            ("/", absolute("")),
            ("a/b", relative("a/b")),
            ("../a", relative("a")),
            ("a/../../b", relative("b")),
            ("s.slice:p:n", relative("s.slice:p:n")),
        ] {
            assert_eq!(of(path, false).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn scopes_stand_in_their_slices() {
        let absolute = |path: &str| Place::Absolute(path.into());
        let scope = |dir: &str, slice: &str| {
            let dir = PathBuf::from(dir);
            let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
            let slice = slice.to_owned();
            Place::Scope(dir, Scope { slice, name })
        };
        assert_eq!(
            Place::of(None, "c1", true).unwrap(),
            scope("system.slice/kata-c1.scope", "system.slice")
        );
        for (path, want, slice) in [
            (
                "machine.slice:libpod:c1",
                "machine.slice/libpod-c1.scope",
                "machine.slice",
            ),
            (
                "a-b-c.slice:p:n",
                "a.slice/a-b.slice/a-b-c.slice/p-n.scope",
                "a-b-c.slice",
            ),
            (":p:n", "system.slice/p-n.scope", "system.slice"),
            ("-.slice:p:n", "p-n.scope", "-.slice"),
            ("a.slice::n", "a.slice/n.scope", "a.slice"),
        ] {
            assert_eq!(of(path, true).unwrap(), scope(want, slice), "{path}");
        }
        assert_eq!(of("a.slice::a-n.slice", true).unwrap(), absolute("a.slice/a-n.slice"));
        for bad in [
            "/a/b",
            "a.slice:n",
            "a:p:n",
            "a--b.slice:p:n",
            "../a.slice:p:n",
            "a.slice:p:../n",
            "a.slice:p:",
            ".slice:p:n",
        ] {
            let error = of(bad, true).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
            assert!(error.chain().contains(bad), "{}", error.chain());
        }
    }
}
