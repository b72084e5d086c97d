// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Events (inotify) for what the host changes in a container's volumes: whoever watches there learns of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use vm_tests::{Runtime, World, both, command, ours};

const MODIFY: u32 = 0x2;
const CLOSE_WRITE: u32 = 0x8;
const ATTRIB: u32 = 0x4;

pub fn cases() -> Vec<Trial> {
    vec![
        both("events::of_a_directory_that_changes", |w| {
            directory(w, "rw");
        }),
        both("events::of_a_directory_that_is_read_only_inside", |w| {
            directory(w, "ro");
        }),
        both("events::of_a_configuration_that_is_swapped", configuration),
        both("events::of_a_single_file", single_file),
        both("events::of_directories_below", below),
        ours("events::what_the_container_does_is_told_once", own),
        ours("events::a_watcher_that_comes_later_is_found", late),
    ]
}

/// Prints what it sees: a mask and a name. perl is essential in Debian.
pub const WATCHER: &str = "$fd = syscall(294, 0); open(F, \"<&=$fd\"); $| = 1; \
    for (@ARGV) { syscall(254, $fd, $_, 0xfce) > 0 or die \"$_: $!\" } print \"ready\\n\"; \
    while (sysread(F, $b, 65536)) { while (length $b) { ($w, $mask, $c, $len) = unpack('iIII', $b); \
    printf \"%d %s\\n\", $mask, unpack('Z*', substr($b, 16, $len)); substr($b, 0, 16 + $len) = ''; } }";

/// A container that watches places of its volume /data, and writes what it sees into a file of the host's.
struct Watcher<'a> {
    world: &'a World,
    seen: PathBuf,
}

impl Watcher<'_> {
    fn start<'a>(world: &'a World, source: &Path, option: &str, places: &str) -> Watcher<'a> {
        let out = world.dir().join("out");
        fs::create_dir_all(&out).expect("make");
        let script = format!(
            "exec /usr/bin/perl -e '{}' {places} >> /out/seen 2>&1",
            WATCHER.replace('\'', "'\\''")
        );
        let mut bundle = world.bundle("c", &script);
        for host in ["/usr", "/lib", "/lib64"] {
            bundle.mount(host, "bind", host, &["rbind", "ro"]);
        }
        bundle.mount("/out", "bind", out.to_str().expect("UTF-8"), &["rbind"]);
        bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["rbind", option]);
        world.create("c", &bundle);
        world.oci(&["start", &world.id("c")]).exits(0);
        let watcher = Watcher {
            world,
            seen: out.join("seen"),
        };
        command::until("somebody watches", || watcher.text().starts_with("ready\n"));
        watcher.settle();
        watcher
    }

    /// Ours learns of a watch after a moment.
    fn settle(&self) {
        if self.world.runtime == Runtime::Ours {
            std::thread::sleep(std::time::Duration::from_secs(4));
        }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.seen).unwrap_or_default()
    }

    fn events(&self) -> Vec<(u32, String)> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter_map(|(mask, name)| Some((mask.parse().ok()?, name.to_owned())))
            .collect()
    }

    /// Waits until something was told of each of these names, the empty one for the watched thing itself.
    #[track_caller]
    fn until_told(&self, names: &[&str]) {
        command::until(&format!("events of {names:?}"), || {
            let told: BTreeSet<String> = self.events().into_iter().map(|(_, name)| name).collect();
            names.iter().all(|name| told.contains(*name))
        });
    }

    #[track_caller]
    fn until_event(&self, bits: u32, name: &str) {
        command::until(&format!("event {bits:x} of {name:?}"), || {
            self.events()
                .iter()
                .any(|(mask, told)| mask & bits != 0 && told == name)
        });
    }

    /// Forgets what it has seen so far.
    fn forget(&self) {
        let file = fs::File::options().write(true).open(&self.seen).expect("open");
        file.set_len(0).expect("truncate");
    }

    #[track_caller]
    fn end(self) {
        self.world.oci(&["delete", "--force", &self.world.id("c")]).exits(0);
    }
}

fn directory(w: &World, option: &str) {
    let dir = w.dir().join("data");
    fs::create_dir(&dir).expect("make");
    fs::write(dir.join("f"), "one\n").expect("write");
    let watcher = Watcher::start(w, &dir, option, "/data");
    fs::write(dir.join("f"), "two\n").expect("write");
    watcher.until_event(MODIFY, "f");
    watcher.until_event(CLOSE_WRITE, "f");
    fs::write(dir.join("new"), "new\n").expect("write");
    watcher.until_told(&["new"]);
    fs::create_dir(dir.join("d")).expect("make");
    watcher.until_told(&["d"]);
    watcher.forget();
    fs::rename(dir.join("new"), dir.join("f")).expect("rename");
    watcher.until_told(&["f"]);
    watcher.forget();
    fs::remove_file(dir.join("f")).expect("remove");
    // Ours cannot raise the event of a file that is not there any more: the directory's is all.
    match w.runtime {
        Runtime::Reference => watcher.until_told(&["f"]),
        Runtime::Ours => watcher.until_event(ATTRIB, ""),
    }
    assert!(!w.oci(&["exec", &w.id("c"), "ls", "/data"]).text().contains('f'));
    watcher.end();
}

/// As kubelet writes a ConfigMap: a link to a directory is replaced.
fn configuration(w: &World) {
    let dir = w.dir().join("data");
    let put = |version: &str| {
        fs::create_dir_all(dir.join(version)).expect("make");
        fs::write(dir.join(version).join("key"), version).expect("write");
        symlink(version, dir.join("..tmp")).expect("link");
        fs::rename(dir.join("..tmp"), dir.join("..data")).expect("swap");
    };
    put("..one");
    symlink("..data/key", dir.join("key")).expect("link");
    let watcher = Watcher::start(w, &dir, "ro", "/data");
    let read = || w.oci(&["exec", &w.id("c"), "cat", "/data/key"]).text();
    assert_eq!(read(), "..one");
    put("..two");
    watcher.until_told(&["..data"]);
    // Whoever has been told sees the new one at once.
    assert_eq!(read(), "..two");
    watcher.end();
}

fn single_file(w: &World) {
    let file = w.dir().join("file");
    fs::write(&file, "one\n").expect("write");
    let watcher = Watcher::start(w, &file, "ro", "/data");
    fs::write(&file, "two\n").expect("write");
    watcher.until_event(MODIFY, "");
    watcher.until_event(CLOSE_WRITE, "");
    watcher.end();
}

fn below(w: &World) {
    let dir = w.dir().join("data");
    fs::create_dir_all(dir.join("a/b c")).expect("make");
    fs::create_dir_all(dir.join("a/unwatched")).expect("make");
    let watcher = Watcher::start(w, &dir, "rw", "/data/a \"/data/a/b c\"");
    fs::write(dir.join("a/unwatched/x"), "").expect("write");
    fs::write(dir.join("a/b c/y"), "").expect("write");
    watcher.until_told(&["y"]);
    fs::write(dir.join("a/z"), "").expect("write");
    watcher.until_told(&["z"]);
    assert!(watcher.events().iter().all(|(_, name)| name != "x"));
    watcher.end();
}

/// The guest's kernel tells of that; we do not tell it again.
fn own(w: &World) {
    let dir = w.dir().join("data");
    fs::create_dir(&dir).expect("make");
    let watcher = Watcher::start(w, &dir, "rw", "/data");
    w.oci(&["exec", &w.id("c"), "sh", "-c", "echo one > /data/f"]).exits(0);
    fs::write(dir.join("last"), "").expect("write");
    watcher.until_told(&["last"]);
    let of_f = watcher.events().into_iter().filter(|(_, name)| name == "f");
    let masks: Vec<u32> = of_f.map(|(mask, _)| mask).collect();
    assert_eq!(masks, [0x100, MODIFY, CLOSE_WRITE], "created, written, closed");
    watcher.end();
}

fn late(w: &World) {
    let dir = w.dir().join("data");
    fs::create_dir_all(dir.join("later")).expect("make");
    let watcher = Watcher::start(w, &dir, "rw", "/data");
    let script = format!(
        "perl -e '{}' /data/later >> /out/late 2>&1 & echo $!",
        WATCHER.replace('\'', "'\\''")
    );
    w.oci(&["exec", &w.id("c"), "sh", "-c", &script]).exits(0);
    let late = Watcher {
        world: w,
        seen: w.dir().join("out/late"),
    };
    command::until("somebody watches", || late.text().starts_with("ready\n"));
    late.settle();
    fs::write(dir.join("later/f"), "").expect("write");
    late.until_told(&["f"]);
    watcher.end();
}
