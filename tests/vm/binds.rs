// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bind sources that change while the container runs: files that are replaced, directories that move, mounts that come and go.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use vm_tests::{Bundle, World, both, command};

pub fn cases() -> Vec<Trial> {
    vec![
        both("binds::a_file_that_is_replaced_stays_what_it_was", replaced_file),
        both("binds::a_file_that_is_written_in_place_changes", |w| {
            let file = w.dir().join("file");
            fs::write(&file, "one\n").expect("write");
            let container = Container::start(w, &[(&file, "/data", &["bind"])]);
            assert_eq!(container.says("cat /data"), "one");
            fs::write(&file, "two, longer\n").expect("write");
            container.until_says("cat /data", "two, longer");
            container.end();
        }),
        both(
            "binds::a_file_that_is_written_before_the_start_is_read_whole",
            before_start,
        ),
        both("binds::files_of_a_directory_are_fresh", fresh_files),
        both(
            "binds::a_directory_that_moves_stays_the_same_directory",
            moved_directory,
        ),
        both("binds::mounts_that_come_and_go_with_rslave", |w| {
            mounts_come_and_go(w, "rslave");
        }),
        both("binds::mounts_that_come_and_go_with_rshared", |w| {
            mounts_come_and_go(w, "rshared");
        }),
        both("binds::mounts_that_come_stay_outside_with_rprivate", private_mount),
        both("binds::a_part_of_a_volume_as_kubelet_binds_it", part_of_a_volume),
    ]
}

/// One that sleeps, with bind mounts.
struct Container<'a> {
    world: &'a World,
}

impl Container<'_> {
    fn start<'a>(world: &'a World, binds: &[(&Path, &str, &[&str])]) -> Container<'a> {
        let mut bundle = world.bundle("c", "while :; do sleep 1; done");
        add(&mut bundle, binds);
        world.create("c", &bundle);
        world.oci(&["start", &world.id("c")]).exits(0);
        Container { world }
    }

    #[track_caller]
    fn says(&self, script: &str) -> String {
        let id = self.world.id("c");
        self.world.oci(&["exec", &id, "sh", "-c", script]).text()
    }

    /// What the host changes is seen after a second at the latest.
    #[track_caller]
    fn until_says(&self, script: &str, words: &str) {
        command::until(&format!("{script:?} says {words:?}"), || self.says(script) == words);
    }

    #[track_caller]
    fn end(self) {
        self.world.oci(&["delete", "--force", &self.world.id("c")]).exits(0);
    }
}

fn add(bundle: &mut Bundle, binds: &[(&Path, &str, &[&str])]) {
    for (source, target, options) in binds {
        bundle.mount(target, "bind", source.to_str().expect("UTF-8"), options);
    }
}

fn replaced_file(w: &World) {
    let file = w.dir().join("file");
    fs::write(&file, "old\n").expect("write");
    let container = Container::start(w, &[(&file, "/data", &["bind"])]);
    fs::write(w.dir().join("new"), "new\n").expect("write");
    fs::rename(w.dir().join("new"), &file).expect("replace");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(
        container.says("cat /data; echo more >> /data; cat /data"),
        "old\nold\nmore"
    );
    assert_eq!(fs::read_to_string(&file).expect("read"), "new\n");
    fs::remove_file(&file).expect("remove");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(container.says("cat /data"), "old\nmore");
    container.end();
}

/// As Podman 5.8 writes /etc/hosts: when the network is there, after create.
fn before_start(w: &World) {
    let file = w.dir().join("file");
    fs::write(&file, "").expect("write");
    let script = "cat /data >/told; mv /told /seen; while :; do sleep 1; done";
    let mut bundle = w.bundle("c", script);
    add(&mut bundle, &[(&file, "/data", &["bind"])]);
    w.create("c", &bundle);
    fs::write(&file, "written\n").expect("write");
    w.oci(&["start", &w.id("c")]).exits(0);
    let container = Container { world: w };
    container.until_says("test -e /seen && echo there", "there");
    assert_eq!(container.says("cat /seen"), "written");
    container.end();
}

fn fresh_files(w: &World) {
    let dir = w.dir().join("data");
    fs::create_dir_all(dir.join("..one")).expect("make");
    fs::write(dir.join("..one/key"), "one\n").expect("write");
    std::os::unix::fs::symlink("..one", dir.join("..data")).expect("link");
    std::os::unix::fs::symlink("..data/key", dir.join("key")).expect("link");
    fs::write(dir.join("f"), "same length 1\n").expect("write");
    let container = Container::start(w, &[(&dir, "/data", &["rbind", "ro"])]);
    assert_eq!(
        container.says("cat /data/key /data/f; ls /data"),
        "one\nsame length 1\nf\nkey"
    );
    // As an editor does, in place and by a new file; as kubelet does, by a link that is swapped.
    fs::write(dir.join("f"), "same length 2\n").expect("write");
    container.until_says("cat /data/f", "same length 2");
    fs::write(dir.join("g"), "same length 3\n").expect("write");
    fs::rename(dir.join("g"), dir.join("f")).expect("rename");
    container.until_says("cat /data/f", "same length 3");
    fs::create_dir(dir.join("..two")).expect("make");
    fs::write(dir.join("..two/key"), "two\n").expect("write");
    std::os::unix::fs::symlink("..two", dir.join("..tmp")).expect("link");
    fs::rename(dir.join("..tmp"), dir.join("..data")).expect("swap");
    fs::remove_dir_all(dir.join("..one")).expect("remove");
    container.until_says("cat /data/key; ls -A /data", "two\n..data\n..two\nf\nkey");
    fs::remove_file(dir.join("f")).expect("remove");
    container.until_says("ls /data", "key");
    container.end();
}

fn moved_directory(w: &World) {
    let dir = w.dir().join("data");
    fs::create_dir(&dir).expect("make");
    fs::write(dir.join("f"), "first\n").expect("write");
    let container = Container::start(w, &[(&dir, "/data", &["rbind"])]);
    assert_eq!(container.says("cat /data/f"), "first");
    let away = w.dir().join("away");
    fs::rename(&dir, &away).expect("move");
    fs::create_dir(&dir).expect("make anew");
    fs::write(dir.join("f"), "second\n").expect("write");
    fs::write(away.join("g"), "from far\n").expect("write");
    container.until_says("cat /data/f /data/g", "first\nfrom far");
    assert_eq!(container.says("echo back > /data/h; cat /data/h"), "back");
    assert_eq!(fs::read_to_string(away.join("h")).expect("read"), "back\n");
    assert!(!dir.join("h").exists());
    container.end();
}

/// A mount of its own with a directory `below` in it, shared as the mounts of most hosts are; gone on drop.
struct Shared(PathBuf);

impl Shared {
    fn make(w: &World) -> Shared {
        let dir = w.dir().join("data");
        fs::create_dir(&dir).expect("make");
        let none = None::<&str>;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("mount");
        mount(none, &dir, none, MsFlags::MS_SHARED, none).expect("share");
        fs::create_dir(dir.join("below")).expect("make");
        Shared(dir)
    }

    fn below(&self) -> PathBuf {
        self.0.join("below")
    }

    fn mount_below(&self) {
        mount(
            Some("tmpfs"),
            &self.below(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=1m"),
        )
        .expect("mount below");
        fs::write(self.below().join("f"), "mounted\n").expect("write");
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = umount2(&self.below(), MntFlags::MNT_DETACH);
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn mounts_come_and_go(w: &World, propagation: &str) {
    let shared = Shared::make(w);
    let container = Container::start(w, &[(&shared.0, "/data", &["rbind", propagation])]);
    assert_eq!(container.says("ls /data/below"), "");
    shared.mount_below();
    container.until_says("cat /data/below/f", "mounted");
    umount2(&shared.below(), MntFlags::MNT_DETACH).expect("unmount");
    container.until_says("ls /data/below", "");
    container.end();
}

fn private_mount(w: &World) {
    let shared = Shared::make(w);
    let container = Container::start(w, &[(&shared.0, "/data", &["rbind", "rprivate"])]);
    shared.mount_below();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(container.says("ls /data/below"), "");
    umount2(&shared.below(), MntFlags::empty()).expect("unmount");
    container.end();
}

/// A directory of a volume, by a descriptor so that nobody exchanges it, bound to a place of kubelet's own; the same with a file.
fn part_of_a_volume(w: &World) {
    let dir = w.dir().join("volume/sub");
    fs::create_dir_all(&dir).expect("make");
    fs::write(dir.join("f"), "sub\n").expect("write");
    let places = Places(w.dir().join("subpaths"));
    let (place, file) = (places.bind("dir", &dir), places.bind("file", &dir.join("f")));
    let container = Container::start(
        w,
        &[
            (&place, "/data", &["rbind", "rprivate"]),
            (&file, "/f", &["rbind", "rprivate"]),
        ],
    );
    assert_eq!(container.says("cat /f"), "sub");
    assert_eq!(
        container.says("cat /data/f; echo new > /data/g; cat /data/g"),
        "sub\nnew"
    );
    assert_eq!(fs::read_to_string(dir.join("g")).expect("read"), "new\n");
    container.end();
}

/// Binds of kubelet's; gone on drop.
struct Places(PathBuf);

impl Places {
    fn bind(&self, name: &str, source: &Path) -> PathBuf {
        let held = fs::File::open(source).expect("open");
        let place = self.0.join(name);
        fs::create_dir_all(&self.0).expect("make");
        if source.is_dir() {
            fs::create_dir(&place).expect("make");
        } else {
            fs::write(&place, "").expect("make");
        }
        let none = None::<&str>;
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        mount(Some(&descriptor), &place, none, MsFlags::MS_BIND, none).expect("bind");
        place
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for name in ["dir", "file"] {
            let _ = umount2(&self.0.join(name), MntFlags::MNT_DETACH);
        }
    }
}
