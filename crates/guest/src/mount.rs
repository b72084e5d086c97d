// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Mount options of the OCI spec, translated for the kernel.

use base::{Error, Kind, Result};

/// What `mounts[].options` means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` (false) or `rbind` (true).
    bind: Option<bool>,
    /// `MOUNT_ATTR_*` set on the mount.
    pub set: u64,
    /// `MOUNT_ATTR_*` cleared.
    pub clear: u64,
    /// Set on the mount and those below.
    pub set_below: u64,
    /// Cleared on the mount and those below.
    pub clear_below: u64,
    /// `MS_SHARED`, … and whether for those below too.
    pub propagation: Vec<(u64, bool)>,
    /// For the file system.
    pub data: Vec<String>,
    /// Fill a new tmpfs with what it hides.
    pub copy_up: bool,
}

impl Options {
    /// Errors: `Unsupported` for mappings of ids, which need the host's file system.
    pub fn parse(options: &[String]) -> Result<Options> {
        let mut all = Options::default();
        for option in options {
            all.add(option)?;
        }
        Ok(all)
    }

    /// Some if it is a bind mount, by type or option; true if with all mounts below.
    pub fn binds(&self, kind: Option<&str>) -> Option<bool> {
        self.bind.or_else(|| (kind == Some("bind")).then_some(false))
    }

    fn add(&mut self, option: &str) -> Result<()> {
        if let Some((bits, on)) = attribute(option) {
            change(&mut self.set, &mut self.clear, bits, on);
            return Ok(());
        }
        // `rro` is `ro` for the whole tree; `relatime`, `rw` and `ro` were found above.
        if let Some((bits, on)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut self.set_below, &mut self.clear_below, bits, on);
            return Ok(());
        }
        if let Some(propagation) = propagation(option) {
            self.propagation.push(propagation);
            return Ok(());
        }
        match option {
            "bind" => self.bind = self.bind.or(Some(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            // What a mount is without them, or what the kernel has dropped.
            "" | "defaults" | "async" | "remount" | "nomand" | "mand" | "loud" | "silent" | "nolazytime"
            | "iversion" | "noiversion" | "acl" | "noacl" | "_netdev" | "nofail" | "auto" | "noauto" => {}
            "idmap" | "ridmap" => {
                let what = format!("mount option {option}: the ids of a shared file system cannot be mapped");
                return Err(Error::new(Kind::Unsupported, what));
            }
            // sync, dirsync and lazytime are flags of the file system for the kernel, too.
            other => self.data.push(other.to_owned()),
        }
        Ok(())
    }
}

fn change(set: &mut u64, clear: &mut u64, bits: u64, on: bool) {
    if bits & libc::MOUNT_ATTR__ATIME == bits {
        // One field of several bits: to set it, it has to be cleared first; zero is relatime.
        *set = *set & !libc::MOUNT_ATTR__ATIME | if on { bits } else { 0 };
        *clear |= libc::MOUNT_ATTR__ATIME;
    } else if on {
        *set |= bits;
        *clear &= !bits;
    } else {
        *set &= !bits;
        *clear |= bits;
    }
}

fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, true),
        "rw" => (libc::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, true),
        "suid" => (libc::MOUNT_ATTR_NOSUID, false),
        "nodev" => (libc::MOUNT_ATTR_NODEV, true),
        "dev" => (libc::MOUNT_ATTR_NODEV, false),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, true),
        "exec" => (libc::MOUNT_ATTR_NOEXEC, false),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (libc::MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, false),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, true),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, true),
        "relatime" => (libc::MOUNT_ATTR_RELATIME, true),
        "atime" | "norelatime" | "nostrictatime" => (libc::MOUNT_ATTR__ATIME, false),
        _ => return None,
    })
}

/// `rslave` and the like: the kind and whether mounts below are meant too.
pub fn propagation(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_become_attributes_and_the_last_one_counts() {
        let options = parse(&["ro", "nosuid", "suid", "rw", "nodev"]);
        assert_eq!(options.set, libc::MOUNT_ATTR_NODEV);
        assert_eq!(options.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        let options = parse(&["noatime", "strictatime", "nodiratime"]);
        assert_eq!(options.set, libc::MOUNT_ATTR_STRICTATIME | libc::MOUNT_ATTR_NODIRATIME);
        assert_eq!(options.clear, libc::MOUNT_ATTR__ATIME);
        let options = parse(&["noatime", "relatime"]);
        assert_eq!((options.set, options.clear), (0, libc::MOUNT_ATTR__ATIME));
    }

    #[test]
    fn an_r_in_front_means_the_whole_tree() {
        let options = parse(&["rbind", "rro", "rnoexec"]);
        assert_eq!(options.set_below, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC);
        assert_eq!((options.set, options.binds(None)), (0, Some(true)));
        assert_eq!(parse(&["rrelatime"]).clear_below, libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn kinds_of_bind_and_propagation_are_told_apart() {
        assert_eq!(parse(&["bind"]).binds(None), Some(false));
        assert_eq!(parse(&["ro"]).binds(Some("bind")), Some(false));
        assert_eq!(parse(&["ro"]).binds(Some("tmpfs")), None);
        assert_eq!(
            parse(&["rslave", "shared"]).propagation,
            [(libc::MS_SLAVE, true), (libc::MS_SHARED, false)]
        );
    }

    #[test]
    fn the_rest_is_for_the_file_system() {
        let options = parse(&["mode=755", "size=64k", "defaults", "sync", "tmpcopyup"]);
        assert_eq!(options.data, ["mode=755", "size=64k", "sync"]);
        assert!(options.copy_up);
    }

    #[test]
    fn mapped_ids_are_refused() {
        assert_eq!(
            Options::parse(&["ridmap".into()]).unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
