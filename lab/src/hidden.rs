// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The host's directories that begin empty in the lab, and what of them is shown all the same: whatever a variable of the
//! command's environment names was put there for it.

use std::path::{Path, PathBuf};

/// Mode and path. Sockets and temporary files of others mean nothing there; engines keep upper directories of overlays, which
/// cannot lie on an overlay, as the lab's root is one.
const HIDDEN: [(&str, &str); 7] = [
    ("1777", "/dev/shm"),
    ("1777", "/tmp"),
    ("755", "/run"),
    ("755", "/var/lib/kata/containers"),
    ("755", "/var/lib/containerd"),
    ("755", "/var/lib/containers"),
    ("755", "/var/lib/docker"),
];

/// A directory of the host that the lab sees where it would be hidden; what is changed there is the lab's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// In the lab.
    pub at: PathBuf,
    /// On the host, without symbolic links.
    pub source: PathBuf,
}

/// For the lab's first program: a line for each.
pub fn list() -> String {
    HIDDEN.iter().map(|(mode, path)| format!("{mode} {path}\n")).collect()
}

/// The directories, alone or in lists with colons, that `values` name and that would be hidden: outer ones first. What lies in
/// `tree` is there anyway.
pub fn needed<'a>(values: impl Iterator<Item = &'a str>, tree: &Path) -> Vec<Shown> {
    let mut shown = Vec::new();
    for named in values.flat_map(|value| value.split(':')).map(Path::new) {
        let Some(source) = named.canonicalize().ok().filter(|source| source.is_dir()) else {
            continue;
        };
        for at in [named, &source] {
            if hides(at) && !at.starts_with(tree) && !line_break(at) && !line_break(&source) {
                shown.push(Shown {
                    at: at.to_owned(),
                    source: source.clone(),
                });
            }
        }
    }
    shown.sort();
    shown.dedup();
    shown
}

/// Whether `path` lies in one of them.
fn hides(path: &Path) -> bool {
    let inside = |top: &str| path.starts_with(top) && path != Path::new(top);
    HIDDEN.iter().any(|(_, top)| inside(top))
}

fn line_break(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'\n')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_the_environment_names_is_shown_where_it_would_be_hidden() {
        let top = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let guest = top.path().join("guest");
        let tree = top.path().join("tree");
        for dir in [&guest, &tree.join("bin")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        symlink(&guest, top.path().join("link")).unwrap();
        symlink("/usr", top.path().join("usr")).unwrap();
        let text = |name: &str| top.path().join(name).display().to_string();
        let show = |values: &[&str]| -> Vec<(String, String)> {
            let shown = needed(values.iter().copied(), &tree);
            let pair = |shown: Shown| (shown.at.display().to_string(), shown.source.display().to_string());
            shown.into_iter().map(pair).collect()
        };
        let same = |name: &str| (text(name), text(name));

        assert_eq!(show(&[&text("guest")]), [same("guest")]);
        let path = format!("/usr/bin:{}:{}:/tmp", text("tree/bin"), text("guest"));
        assert_eq!(
            show(&[&path, &text("guest")]),
            [same("guest")],
            "once, and not what is in the tree"
        );
        assert_eq!(show(&[&text("link")]), [same("guest"), (text("link"), text("guest"))]);
        assert_eq!(show(&[&text("usr")]), [(text("usr"), "/usr".into())]);
        assert_eq!(show(&["/tmp", "/run", "/usr", "tmp", "", &text("no")]), []);
    }
}
