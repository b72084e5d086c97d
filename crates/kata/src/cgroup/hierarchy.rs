// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The hierarchies of control groups that this host has mounted, and where we stand in each: cgroup v1 has one per controller (or
//! several controllers), v2 one for all, and a hybrid host v1's and beside them v2's without controllers.

use std::path::{Path, PathBuf};

use base::{Context, Result};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::place::{Place, clean};

/// Where hosts mount them; one of v2 right here is the only one.
const TOP: &str = "/sys/fs/cgroup";

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own group, as a path below `mount`.
    pub own: PathBuf,
    pub kind: Kind,
}

/// What sort of hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// v1, with the controller `cpuset`, whose groups begin empty.
    Cpuset,
    /// v1, any other.
    First,
    /// v2 beside v1.
    Hybrid,
    /// v2 alone.
    Unified,
}

impl Hierarchy {
    /// Its directory for `place`.
    pub fn dir(&self, place: &Place) -> PathBuf {
        match place {
            Place::Absolute(path) | Place::Scope(path, _) => self.mount.join(path),
            // A group of v2 with processes cannot have groups with controllers below it: theirs stand beside ours, as runc's.
            Place::Relative(path) if self.kind == Kind::Unified => {
                let beside = self.own.parent().unwrap_or(&self.own);
                self.mount.join(beside).join(path)
            }
            Place::Relative(path) => self.mount.join(&self.own).join(path),
        }
    }

    /// Our own group's directory.
    pub fn home(&self) -> PathBuf {
        self.mount.join(&self.own)
    }
}

/// All that are mounted.
pub fn mounted() -> Result<Vec<Hierarchy>> {
    let own = std::fs::read_to_string("/proc/self/cgroup").attempt(|| "read /proc/self/cgroup".into())?;
    mounted_for(&own)
}

/// As [`mounted`], for a process with the groups `own`, as its `/proc/<pid>/cgroup` has them.
pub fn mounted_for(own: &str) -> Result<Vec<Hierarchy>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").attempt(|| "read /proc/self/mountinfo".into())?;
    let unified = statfs(TOP).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    Ok(parse(&mounts, own, unified))
}

/// From mountinfo and the list of our own groups.
fn parse(mounts: &str, own: &str, unified: bool) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in own.lines() {
        // `4:memory:/group`, `9:name=systemd:/group`, `0::/group`
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let second = controllers.is_empty();
        if unified && !second {
            continue;
        }
        let kind = match second {
            true if unified => Kind::Unified,
            true => Kind::Hybrid,
            false if controllers.split(',').any(|name| name == "cpuset") => Kind::Cpuset,
            false => Kind::First,
        };
        let mut candidates = mounts.lines().filter_map(mount).filter(|mount| {
            if second {
                mount.fs == "cgroup2" && (!unified || mount.point == Path::new(TOP))
            } else {
                let mut names = controllers.split(',');
                mount.fs == "cgroup" && names.all(|name| mount.options.split(',').any(|option| option == name))
            }
        });
        // What was mounted over another is what is seen.
        let chosen = if unified {
            candidates.next_back()
        } else {
            candidates.next()
        };
        let Some(mount) = chosen else {
            continue;
        };
        let group = Path::new(group);
        // In a container the mount may begin at the container's group.
        let own = clean(group.strip_prefix(&mount.root).unwrap_or(group));
        let seen = group.starts_with(&mount.root);
        found.push(Hierarchy {
            mount: mount.point,
            own: if seen { own } else { PathBuf::new() },
            kind,
        });
    }
    found
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    fs: &'a str,
    options: &'a str,
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut what = what.split(' ');
    Some(Mount {
        root: unescape(place.next()?),
        point: unescape(place.next()?),
        fs: what.next()?,
        options: what.nth(1)?,
    })
}

/// The kernel writes a blank as `\040`.
pub fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if bytes[at] == b'\\' => {
                plain.push(code);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        35 30 0:31 /docker/c /sys/fs/cgroup/with\\040blank rw - cgroup cgroup rw,memory\n";

    fn dirs(found: &[Hierarchy], place: &Place) -> Vec<String> {
        found
            .iter()
            .map(|h| h.dir(place).to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn every_hierarchy_of_a_hybrid_host_is_found() {
        let own =
            "9:name=systemd:/u\n8:freezer:/not/mounted\n4:memory:/docker/c/m\n3:cpuset:/\n2:cpu,cpuacct:/a/b\n0::/u\n";
        let found = parse(HYBRID, own, false);
        let kinds: Vec<Kind> = found.iter().map(|h| h.kind).collect();
        assert_eq!(
            kinds,
            [Kind::First, Kind::First, Kind::Cpuset, Kind::First, Kind::Hybrid]
        );
        assert_eq!(
            dirs(&found, &Place::Relative("c1".into())),
            [
                "/sys/fs/cgroup/systemd/u/c1",
                "/sys/fs/cgroup/with blank/m/c1",
                "/sys/fs/cgroup/cpuset/c1",
                "/sys/fs/cgroup/cpu,cpuacct/a/b/c1",
                "/sys/fs/cgroup/unified/u/c1",
            ]
        );
        assert_eq!(
            dirs(&found, &Place::Absolute("x/y".into()))[1],
            "/sys/fs/cgroup/with blank/x/y"
        );
    }

    #[test]
    fn a_group_that_the_mount_does_not_show_counts_as_its_root() {
        let found = parse(HYBRID, "4:memory:/elsewhere\n", false);
        assert_eq!(found[0].home(), Path::new("/sys/fs/cgroup/with blank"));
    }

    #[test]
    fn the_unified_hierarchy_is_the_only_one_and_groups_stand_beside_ours() {
        let mounts = format!("{HYBRID}40 1 0:40 / /sys/fs/cgroup rw - cgroup2 none rw\n");
        let found = parse(&mounts, "3:cpuset:/\n0::/user/me\n", true);
        assert_eq!((found.len(), found[0].kind), (1, Kind::Unified));
        assert_eq!(dirs(&found, &Place::Relative("c1".into())), ["/sys/fs/cgroup/user/c1"]);
        assert_eq!(dirs(&found, &Place::Absolute("x".into())), ["/sys/fs/cgroup/x"]);
        let found = parse(&mounts, "0::/\n", true);
        assert_eq!(dirs(&found, &Place::Relative("c1".into())), ["/sys/fs/cgroup/c1"]);
        assert_eq!(parse("", "0::/\n", false), []);
    }
}
