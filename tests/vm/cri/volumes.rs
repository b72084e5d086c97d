// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Volumes as the kubelet gives them: directories and files of the host's, parts of them, and what changes in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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

/// Mounts of the node's, where containerd sees them; gone on drop, the last first.
struct Mounts<'n> {
    node: &'n Node<'n>,
    places: Vec<PathBuf>,
}

impl Mounts<'_> {
    fn tmpfs(&mut self, place: &Path) {
        self.node
            .sh("mkdir -p $1; mount -t tmpfs -o size=1m tmpfs $1", &[place]);
        self.places.push(place.to_owned());
    }

    /// `source` by a descriptor, so that nobody exchanges it, as the kubelet binds parts of volumes.
    fn bind(&mut self, source: &Path, place: &Path) {
        let make = if source.is_dir() { "mkdir -p $2" } else { ": >$2" };
        let bind = format!("{make}; exec 3<$1; mount --no-canonicalize --bind /proc/self/fd/3 $2");
        self.node.sh(&bind, &[source, place]);
        self.places.push(place.to_owned());
    }

    fn unmount(&mut self, place: &Path) {
        self.node.sh("umount -l $1", &[place]);
        self.places.retain(|one| one != place);
    }
}

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for place in self.places.iter().rev() {
            self.node.sh("umount -l $1 || true", &[place]);
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
    let mut mounts = Mounts {
        node,
        places: Vec::new(),
    };
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
            node.sh("rm -r $1", &[Path::new("/nosuch")]);
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
    node.sh("mount --make-shared $1", &[&shared]);
    let (below, inner) = (shared.join("below"), shared.join("inner"));
    node.sh("mkdir $1 $2", &[&below, &inner]);
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
        node.sh("echo mounted >$1/f", &[&below]);
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
        node.sh("cat /proc/self/mountinfo", &[])
            .contains(&inner.display().to_string())
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
