// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Volumes as the kubelet gives them: directories and files of the host's, parts of them, and what changes in them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use vm_tests::behaviour::Behaviours;
use vm_tests::node::Node;
use vm_tests::pod::Pod;
use vm_tests::{Runtime, command};

use crate::events::WATCHER;

/// A mount as a container's configuration has it.
fn volume(host: &Path, container: &str, readonly: bool) -> Value {
    json!({ "host_path": host, "container_path": container, "readonly": readonly })
}

/// Mounts of the node's; gone on drop, the last first.
#[derive(Default)]
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn tmpfs(&mut self, place: &Path) {
        fs::create_dir_all(place).expect("make a directory");
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("mount");
        self.0.push(place.to_owned());
    }

    /// `source` by a descriptor, so that nobody exchanges it, as the kubelet binds parts of volumes.
    fn bind(&mut self, source: &Path, place: &Path) {
        if source.is_dir() {
            fs::create_dir_all(place).expect("make a directory");
        } else {
            fs::write(place, "").expect("make a file");
        }
        let held = fs::File::open(source).expect("open");
        let held_path = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        mount(Some(&held_path), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        self.0.push(place.to_owned());
    }

    fn unmount(&mut self, place: &Path) {
        umount2(place, MntFlags::MNT_DETACH).expect("unmount");
        self.0.retain(|one| one != place);
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
    }
}

/// A configuration as the kubelet's writer swaps it: a link to a directory of the moment, exchanged in one step.
fn swap(dir: &Path, version: &str) {
    let (now, next) = (format!("..{version}"), dir.join("..next"));
    fs::create_dir(dir.join(&now)).expect("make a directory");
    fs::write(dir.join(&now).join("key"), format!("{version}\n")).expect("write");
    symlink(&now, &next).expect("link");
    let before = fs::read_link(dir.join("..data")).ok();
    fs::rename(&next, dir.join("..data")).expect("rename");
    match before {
        Some(before) => fs::remove_dir_all(dir.join(before)).expect("remove"),
        None => symlink("..data/key", dir.join("key")).expect("link"),
    }
}

pub fn volumes(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    // Before the pod: it ends before its volumes do.
    let mut mounts = Mounts::default();
    let pod = Pod::new(node, "pod");
    let dir = |name: &str| {
        let dir = node.world().dir().join("volumes").join(name);
        fs::create_dir_all(&dir).expect("make a directory");
        dir
    };
    seen.see("volumes: directories and files, writable and read-only", || {
        let data = dir("data");
        fs::write(data.join("f"), "given\n").expect("write");
        let given = [
            volume(&data, "/rw", false),
            volume(&data, "/ro", true),
            volume(&data.join("f"), "/etc/f", true),
        ];
        let script = "cat /ro/f /etc/f; echo new >/rw/g; cat /ro/g; touch /ro/h 2>&1; touch /etc/f 2>&1 || true";
        let text = pod.run("a", script, &json!({ "mounts": given })).exits(0).text();
        assert!(
            text.starts_with("given\ngiven\nnew\n") && text.matches("Read-only").count() == 2,
            "{text}"
        );
        assert_eq!(fs::read_to_string(data.join("g")).expect("read"), "new\n");
    });
    seen.see("volumes: one that is missing", || {
        let missing = json!({ "mounts": [volume(Path::new("/nosuch/volume"), "/data", false)] });
        let made = pod.try_start("missing", "test -d /data", &missing);
        // containerd makes it, unless it may not.
        if let Ok(id) = made {
            assert_eq!(pod.ended(&id), 0);
            pod.delete(&id);
            fs::remove_dir_all("/nosuch").expect("containerd made it");
        }
    });
    seen.see("volumes: what one container writes another reads", || {
        let empty = json!({ "mounts": [volume(&dir("empty"), "/data", false)] });
        let (one, two) = (pod.sleeper("one", &empty), pod.sleeper("two", &empty));
        pod.tells(&one, "mkfifo /data/p; echo word >/data/next; mv /data/next /data/f");
        assert_eq!(pod.tells(&two, "cat /data/f; echo more >>/data/f"), "word");
        assert_eq!(pod.tells(&one, "cat /data/f"), "word\nmore");
        assert_eq!(
            pod.tells(
                &two,
                "cat /data/p >/tmp/got & echo through >/data/p; wait; cat /tmp/got"
            ),
            "through"
        );
        [one, two].iter().for_each(|id| pod.delete(id));
    });
    seen.see("volumes: a configuration that is swapped, and its watcher", || {
        let data = dir("configuration");
        swap(&data, "one");
        let system = ["/usr", "/lib", "/lib64"].map(|place| volume(Path::new(place), place, true));
        let given = [&system[..], &[volume(&data, "/data", true)]].concat();
        let script = format!("exec /usr/bin/perl -e '{}' /data", WATCHER.replace('\'', "'\\''"));
        let id = pod.start("watcher", &script, &json!({ "mounts": given }));
        let told = || pod.log("watcher", "stdout");
        command::until("somebody watches", || told().starts_with("ready\n"));
        for version in ["two", "three", "four"] {
            swap(&data, version);
            command::until("it is seen", || pod.exec(&id, "cat /data/key").text() == version);
        }
        // Again and again until a watch that ours has not learnt of yet is known.
        let mut number = 0;
        command::until("it is told", || {
            number += 1;
            swap(&data, &format!("v{number}"));
            told().lines().any(|line| line.ends_with("..data"))
        });
        pod.delete(&id);
    });
    seen.see("volumes: parts of one", || {
        let sub = dir("volume").join("sub");
        fs::create_dir_all(&sub).expect("make a directory");
        fs::write(sub.join("f"), "sub\n").expect("write");
        let places = dir("subpaths");
        let (place, file) = (places.join("dir"), places.join("file"));
        mounts.bind(&sub, &place);
        mounts.bind(&sub.join("f"), &file);
        let given = json!({ "mounts": [volume(&place, "/data", false), volume(&file, "/f", false)] });
        let text = pod.run("part", "cat /f; echo new >/data/g; echo more >>/f; cat /data/f", &given);
        assert_eq!(text.exits(0).text(), "sub\nsub\nmore");
        assert_eq!(fs::read_to_string(sub.join("g")).expect("read"), "new\n");
        mounts.unmount(&file);
        mounts.unmount(&place);
    });
    let shared = dir("shared");
    mounts.tmpfs(&shared);
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("share");
    let (below, inner) = (shared.join("below"), shared.join("inner"));
    for place in [&below, &inner] {
        fs::create_dir(place).expect("make a directory");
    }
    let with = |pod: &Pod<'_>, name: &str, propagation: &str| {
        let mut given = volume(&shared, "/data", false);
        given["propagation"] = json!(propagation);
        let context = json!({ "privileged": propagation == "PROPAGATION_BIDIRECTIONAL" });
        pod.sleeper(
            name,
            &json!({ "mounts": [given], "linux": { "security_context": context } }),
        )
    };
    let private = with(&pod, "private", "PROPAGATION_PRIVATE");
    let slave = with(&pod, "slave", "PROPAGATION_HOST_TO_CONTAINER");
    seen.see("volumes: mounts of the host come and go, or stay outside", || {
        mounts.tmpfs(&below);
        fs::write(below.join("f"), "mounted\n").expect("write");
        let look = |id: &str| pod.exec(id, "cat /data/below/f").text();
        command::until("it is seen", || look(&slave) == "mounted");
        assert_eq!(look(&private), "");
        mounts.unmount(&below);
        command::until("it is gone", || look(&slave).is_empty());
    });
    for id in [&private, &slave] {
        pod.delete(id);
    }
    pod.remove();
    let privileged = json!({ "linux": { "security_context": { "privileged": true } } });
    let pod = Pod::with(node, "privileged", &privileged);
    let both = with(&pod, "both", "PROPAGATION_BIDIRECTIONAL");
    let outside = || {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        table.contains(&inner.display().to_string())
    };
    let (what, script) = (
        "volumes: a mount of the container goes out, where it is to",
        "mount -t tmpfs none /data/inner && echo a >/data/inner/f && cat /data/inner/f",
    );
    if node.world().runtime == Runtime::Reference {
        seen.see(what, || {
            assert_eq!(pod.tells(&both, script), "a");
            command::until("it is outside", outside);
            pod.tells(&both, "umount /data/inner");
        });
    } else {
        seen.differs(what, "it stays in the machine", || {
            assert_eq!(pod.tells(&both, script), "a");
            assert!(!outside());
        });
    }
    pod.remove();
}
