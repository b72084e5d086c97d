// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which sandboxes there are on this node, as far as directories tell: those of all runtimes' roots.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use oci::State;
use oci::pod::Name;

use crate::berth;
use crate::containerd;
use crate::runtime::container::RECORD;

/// Runtimes' root directories.
#[derive(Debug, Clone)]
pub struct Roots {
    own: Vec<PathBuf>,
    /// Each directory below is one, too.
    above: Option<PathBuf>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its directory.
    pub home: PathBuf,
    /// As Kubernetes calls it, if that has made it.
    pub pod: Option<Name>,
}

impl Roots {
    /// That of the runtime, `further` ones, and those of containerd's namespaces.
    pub fn with(first: &Path, further: &[PathBuf]) -> Result<Roots> {
        let mut own = Vec::new();
        for root in std::iter::once(first).chain(further.iter().map(PathBuf::as_path)) {
            let root = std::path::absolute(root).attempt(|| format!("root directory {}", root.display()))?;
            if !own.contains(&root) {
                own.push(root);
            }
        }
        Ok(Roots {
            own,
            above: Some(containerd::ROOT.into()),
        })
    }

    /// No other than this.
    pub fn only(root: &Path) -> Roots {
        Roots {
            own: vec![root.to_owned()],
            above: None,
        }
    }

    fn all(&self) -> Vec<PathBuf> {
        let mut below: Vec<_> = self.above.iter().flat_map(|above| entries(above)).collect();
        below.sort();
        below.retain(|root| !self.own.contains(root));
        self.own.iter().cloned().chain(below).collect()
    }

    /// The sandboxes, by ids that no two have: that of the first container, with the root's name before it where another root has one
    /// with the same.
    pub fn sandboxes(&self) -> BTreeMap<String, Found> {
        let mut found = BTreeMap::new();
        for root in self.all() {
            for home in entries(&root) {
                let Some(id) = id(&home) else { continue };
                let key = match found.contains_key(id) {
                    false => id.to_owned(),
                    true => format!("{}/{id}", root.file_name().unwrap_or_default().to_string_lossy()),
                };
                let pod = pod(&root, id);
                found.insert(key, Found { home, pod });
            }
        }
        found
    }

    /// The directory of the sandbox that has the container `id`, or this id itself. Errors: `NotFound`.
    pub fn find(&self, id: &str) -> Result<PathBuf> {
        let roots = self.all();
        if !id.contains('/') {
            for root in &roots {
                for home in [berth::sandbox(&root.join(id)), root.join(format!("@{id}"))] {
                    if home.is_dir() {
                        return Ok(home);
                    }
                }
            }
        }
        let looked: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
        let what = format!("no container and no sandbox {id} in {}", looked.join(", "));
        Err(Error::new(Kind::NotFound, what))
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    // A root that is not there has no sandboxes.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Of the sandbox in `home`; none if it is none.
fn id(home: &Path) -> Option<&str> {
    home.file_name()?
        .to_str()?
        .strip_prefix('@')
        .filter(|id| !id.is_empty())
}

/// What its first container says.
fn pod(root: &Path, id: &str) -> Option<Name> {
    let first = id.split('@').next()?;
    let record = fs::read(root.join(first).join(RECORD)).ok()?;
    let state: State = serde_json::from_slice(&record).ok()?;
    oci::pod::name(&state.annotations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::container::Container;
    use crate::runtime::container::stub;

    #[test]
    fn sandboxes_of_all_roots_have_ids_of_their_own() {
        let top = tempfile::tempdir().unwrap();
        let (one, above) = (top.path().join("one"), top.path().join("above"));
        let mut state = stub::record(&one, "a");
        for (key, value) in [("uid", "u-1"), ("name", "web \"1\""), ("namespace", "shop")] {
            state
                .annotations
                .insert(format!("io.kubernetes.cri.sandbox-{key}"), value.into());
        }
        Container::record(&one.join("a"), &state).unwrap();
        stub::record(&above.join("k8s.io"), "a");
        stub::record(&above.join("k8s.io"), "b");
        fs::write(above.join("file"), "").unwrap();
        let roots = Roots {
            own: vec![one.clone(), top.path().join("none")],
            above: Some(above.clone()),
        };
        let found = roots.sandboxes();
        let ids: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(ids, ["a", "b", "k8s.io/a"]);
        let name = found["a"].pod.clone().unwrap();
        assert_eq!(
            (name.uid.as_str(), name.name.as_str(), name.namespace.as_str()),
            ("u-1", "web \"1\"", "shop")
        );
        assert_eq!(found["b"].pod, None);
        assert_eq!(roots.find("b").unwrap(), above.join("k8s.io/b/sandbox"));
        assert_eq!(Roots::only(&one).sandboxes().len(), 1);
        for id in ["none", "../one/a", ""] {
            let error = roots.find(id).unwrap_err();
            assert!(
                error.kind() == Kind::NotFound && error.chain().contains("k8s.io"),
                "{}",
                error.chain()
            );
        }
    }
}
