// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! File systems that nearly every container has, made before anybody asks for one, up to the point where only the mount is missing. A
//! spec that wants one of them exactly so gets it; all others are made anew. It does not know where they are mounted.

use base::Result;
use nix::sys::sysinfo::sysinfo;

use crate::tree::Unmounted;

/// Type, source and options.
type Wanted = (&'static str, &'static str, &'static [&'static str]);

/// As the specification's example and the engines have them, and what hides a directory.
const USUAL: [Wanted; 7] = [
    ("proc", "proc", &[]),
    ("tmpfs", "tmpfs", &["mode=755", "size=65536k"]),
    (
        "devpts",
        "devpts",
        &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("tmpfs", "shm", &["mode=1777", "size=65536k"]),
    ("mqueue", "mqueue", &[]),
    ("sysfs", "sysfs", &[]),
    EMPTY,
];

/// Has room for nothing.
pub const EMPTY: Wanted = ("tmpfs", "tmpfs", &["nr_blocks=1", "nr_inodes=1"]);

/// See the module.
#[derive(Debug, Default)]
pub struct Stock {
    made: Vec<(Wanted, Unmounted)>,
    /// Bytes that the machine had then: by them the kernel counts how many files a file system of memory may have.
    memory: u64,
}

impl Stock {
    /// Makes each of them once, in the namespaces and the cgroup of the caller. What cannot be made is not there: it fails for whoever wants it.
    pub fn make() -> Stock {
        let made = USUAL.into_iter().filter_map(|wanted| {
            let (kind, source, options) = wanted;
            let options: Vec<String> = options.iter().copied().map(str::to_owned).collect();
            Some((wanted, Unmounted::new(kind, source, &options).ok()?))
        });
        Stock {
            made: made.collect(),
            memory: memory(),
        }
    }

    /// A file system that nobody else has: one of ours that is exactly so, or a new one.
    pub fn take(&mut self, kind: &str, source: &str, options: &[String]) -> Result<Unmounted> {
        let fits = |((own, named, data), _): &(Wanted, _)| *own == kind && *named == source && data == &options;
        match self.made.iter().position(fits) {
            Some(place) if kind != "tmpfs" || self.memory == memory() => Ok(self.made.swap_remove(place).1),
            _ => Unmounted::new(kind, source, options),
        }
    }
}

fn memory() -> u64 {
    sysinfo().map_or(0, |machine| machine.ram_total())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Those of the superblock as the kernel tells them, and how many are left in stock.
    fn taken(stock: &mut Stock, source: &str, words: &[&str]) -> (String, usize) {
        let tree = stock.take("tmpfs", source, &options(words)).unwrap();
        let tree = tree.mount(libc::MOUNT_ATTR_NOEXEC).unwrap();
        let place = tempfile::tempdir().unwrap();
        tree.attach(fs::File::open(place.path()).unwrap().as_fd()).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let own = mounts
            .lines()
            .find(|line| line.contains(place.path().to_str().unwrap()));
        let own = own.unwrap().split(' ').skip(5).collect::<Vec<_>>().join(" ");
        drop(tree);
        nix::mount::umount(place.path()).unwrap();
        (own, stock.made.len())
    }

    #[test]
    fn what_is_in_stock_is_as_if_made_anew_and_given_once() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(none, "/", none, private, none).unwrap();
            let mut stock = Stock::make();
            let all = stock.made.len();
            assert!(all >= 4, "{stock:?}");
            let usual = ["mode=1777", "size=65536k"];
            let first = taken(&mut stock, "shm", &usual);
            assert_eq!(first.1, all - 1);
            assert!(
                first.0.contains("noexec") && first.0.contains("size=65536k"),
                "{first:?}"
            );
            assert_eq!(taken(&mut stock, "shm", &usual), first, "made anew");
            for other in [&["size=65536k", "mode=1777"][..], &["mode=1777"], &[]] {
                assert_eq!(taken(&mut stock, "shm", other).1, all - 1, "{other:?}");
            }
            assert_eq!(taken(&mut stock, "other", &usual).1, all - 1);
            let then = std::mem::replace(&mut stock.memory, 1);
            assert_eq!(taken(&mut stock, "tmpfs", &["mode=755", "size=65536k"]).1, all - 1);
            stock.memory = then;
            assert_eq!(taken(&mut stock, "tmpfs", &["mode=755", "size=65536k"]).1, all - 2);
            let fd = stock.take("proc", "proc", &[]).unwrap().mount(0).unwrap();
            let link = fs::read_link(format!("/proc/self/fd/{}/self", fd.as_fd().as_raw_fd())).unwrap();
            assert_eq!(link.to_str(), Some(std::process::id().to_string().as_str()));
            assert_eq!(stock.made.len(), all - 3);
            assert_eq!(
                stock.take("nofs", "nofs", &[]).unwrap_err().kind(),
                base::Kind::Unsupported
            );
        });
        thread.join().unwrap();
    }
}
