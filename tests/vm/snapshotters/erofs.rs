// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Layers that are file systems of their own: in ours, all of them are one block device of the machine, and the guest lays them one above
//! the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::containerd::{self, Containerd, IMAGE};
use vm_tests::suite::Suite;
use vm_tests::{Runtime, Verdict, World, both};

use super::{end, reconfigure, root};
use crate::containerd::Netns;

const SNAPSHOTTER: [&str; 2] = ["--snapshotter", "erofs"];
const CONFIG: &str = "[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"erofs\", \"walking\"]\n";
/// Of an image.
const LAYERS: [usize; 2] = [3, 10];

pub fn cases() -> Vec<Trial> {
    let case = |suite: Suite| {
        both(&format!("{}::erofs", suite.group("snapshotters")), move |w| {
            let c = match Containerd::new(w, suite) {
                Ok(containerd) => containerd,
                Err(why) => return Verdict::Skipped(why),
            };
            if let Err(why) = reconfigure(&c, w, CONFIG, "erofs") {
                return Verdict::Skipped(why);
            }
            let mut seen = Behaviours::new(&c.client, w);
            seen.see("erofs snapshotter", || {
                one(&c, w);
                for layers in LAYERS {
                    several(&c, w, layers);
                }
            });
            seen.see("erofs snapshotter, what is written stays", || kept(&c, w));
            const MOVED: &str = "erofs snapshotter, a set-user-ID file of the image is moved";
            match w.runtime {
                Runtime::Reference => seen.see(MOVED, || assert_eq!(moved(&c), "4755")),
                // The guest's overlay copies it to the share, and gives it its owner last: to the host that is a chown(2).
                Runtime::Ours => seen.differs(MOVED, "it loses the bit", || assert_eq!(moved(&c), "755")),
            }
            seen.see("erofs snapshotter, pods", || pod(&c, w));
            seen.end();
            Verdict::Held
        })
    };
    Suite::ALL.map(case).into()
}

fn image(layers: usize) -> String {
    format!("docker.io/library/layers:{layers}")
}

/// An image in which each layer has a file of its own and one of all; the second has what the last takes away.
fn import(c: &Containerd<'_>, w: &World, layers: usize) {
    let dirs: Vec<PathBuf> = (1..layers)
        .map(|layer| w.dir().join(format!("layer-{layer}")))
        .collect();
    for (dir, layer) in dirs.iter().zip(1..) {
        fs::create_dir_all(dir.join("layers")).expect("make a directory");
        fs::write(dir.join(format!("layers/{layer}")), "").expect("write");
        fs::write(dir.join("top"), layer.to_string()).expect("write");
    }
    let (second, last) = (&dirs[0], &dirs[layers - 2]);
    fs::create_dir_all(second.join("replaced")).expect("make a directory");
    fs::write(second.join("gone"), "").expect("write");
    fs::write(second.join("replaced/old"), "").expect("write");
    fs::write(second.join("tool"), "#!/bin/sh\necho runs\n").expect("write");
    fs::set_permissions(second.join("tool"), fs::Permissions::from_mode(0o4755)).expect("set the mode");
    // As of OCI's layers.
    fs::write(last.join(".wh.gone"), "").expect("write");
    fs::create_dir_all(last.join("replaced")).expect("make a directory");
    fs::write(last.join("replaced/.wh..wh..opq"), "").expect("write");
    fs::write(last.join("replaced/new"), "").expect("write");
    let archive = containerd::layered(w, &image(layers), &["sh"], &dirs);
    c.ctr(&["images", "import", &archive.to_string_lossy()]).exits(0);
    for dir in dirs {
        fs::remove_dir_all(dir).expect("remove the directory");
    }
}

fn run(c: &Containerd<'_>, options: &[&str], image: &str, name: &str, script: &str) -> String {
    let words = [
        &["run", "--runtime", c.runtime()],
        &SNAPSHOTTER[..],
        options,
        &[image, name, "sh", "-c", script],
    ];
    c.ctr(&words.concat()).exits(0).text()
}

/// That the root file system `mounted` is an overlay, and in ours one that the guest has made.
fn overlay(w: &World, mounted: &str) {
    assert!(mounted.contains(" / overlay r"), "{mounted}");
    let devices = mounted.contains("lowerdir=/run/kata/disk/");
    assert_eq!(devices, w.runtime == Runtime::Ours, "{mounted}");
}

fn one(c: &Containerd<'_>, w: &World) {
    let text = run(
        c,
        &["--rm"],
        IMAGE,
        "one",
        "head -n 1 /proc/mounts; echo x > /x; cat /x",
    );
    overlay(w, &text);
    assert!(text.ends_with("\nx"), "{text}");
}

fn several(c: &Containerd<'_>, w: &World, layers: usize) {
    import(c, w, layers);
    let look = "head -n 1 /proc/mounts; cat /top; echo; ls /layers | wc -l; ls -d /gone /replaced/old 2>/dev/null; \
                ls /replaced; /tool; stat -c %a /tool";
    let text = run(c, &["--rm"], &image(layers), "several", look);
    let (mounted, found) = text.split_once('\n').expect("lines");
    overlay(w, mounted);
    let last = layers - 1;
    assert_eq!(found, format!("{last}\n{last}\nnew\nruns\n4755"));
    // Read-only, and twice at once from the same files.
    let twice = ["first", "second"].map(|name| {
        run(c, &["-d", "--read-only"], &image(layers), name, "sleep 1000");
        let write = [
            "tasks",
            "exec",
            "--exec-id",
            "w",
            name,
            "sh",
            "-c",
            "cat /top; echo x > /x",
        ];
        let wrote = c.ctr(&write);
        assert_ne!(wrote.code, 0, "it is read-only");
        wrote.stdout
    });
    assert_eq!(twice[0], twice[1]);
    for name in ["first", "second"] {
        end(c, name);
        c.ctr(&["containers", "delete", name]).exits(0);
    }
}

/// What a container has written is where the snapshotter wants it, as an overlay of the host understands it.
fn kept(c: &Containerd<'_>, w: &World) {
    run(c, &["-d"], &image(3), "kept", "sleep 1000");
    let write = "echo kept > /own; rm /layers/1; rm -r /replaced; mkdir /replaced; echo x >> /top; chmod 700 /layers; \
                 rm /tool; ln -s own /link; head -c 1000000 /dev/zero > /big; sync";
    c.ctr(&["tasks", "exec", "--exec-id", "w", "kept", "sh", "-c", write])
        .exits(0);
    let look = "cat own; ls layers replaced; cat top; stat -c %a layers; cat link; wc -c < big; \
                ls tool 2>/dev/null || echo none";
    let inside = format!("cd /; {look}");
    let first = c
        .ctr(&["tasks", "exec", "--exec-id", "l", "kept", "sh", "-c", &inside])
        .exits(0)
        .text();
    assert_eq!(first, "kept\nlayers:\n2\n\nreplaced:\n2x\n700\nkept\n1000000\nnone");
    end(c, "kept");
    // For another process of the same container.
    c.ctr(&["tasks", "start", "-d", "kept"]).exits(0);
    let again = c.ctr(&["tasks", "exec", "--exec-id", "l", "kept", "sh", "-c", &inside]);
    assert_eq!(again.exits(0).text(), first);
    end(c, "kept");
    // For whoever mounts the snapshot.
    let place = w.dir().join("snapshot").display().to_string();
    let words = [&["snapshots"][..], &SNAPSHOTTER, &["mounts", &place, "kept"]].concat();
    let line = c.ctr(&words).exits(0).text();
    let script = format!("mkdir {place} && {line} && (cd {place}; {look}); umount {place}; rmdir {place}");
    assert_eq!(c.sh(&script).exits(0).text(), first);
    c.ctr(&["containers", "delete", "kept"]).exits(0);
}

/// The mode of a program that is moved.
fn moved(c: &Containerd<'_>) -> String {
    run(c, &["--rm"], &image(3), "moved", "mv /tool /moved; stat -c %a /moved")
}

/// More of them than a machine has places for block devices: the others have the host's overlay.
fn pod(c: &Containerd<'_>, w: &World) {
    let name = w.id("net");
    let _netns = Netns::add(&name);
    let network = format!("network:/run/netns/{name}");
    let sandbox = "io.kubernetes.cri.sandbox-id=pod";
    let all = [
        ("pod", "sandbox"),
        ("one", "container"),
        ("two", "container"),
        ("three", "container"),
    ];
    for (id, kind) in all {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let options = [
            "-d",
            "--with-ns",
            &network,
            "--annotation",
            &kind,
            "--annotation",
            sandbox,
        ];
        run(c, &options, &image(3), id, "sleep 1000");
    }
    for (id, _) in all {
        let mounted = root(c, id);
        match ["pod", "three"].contains(&id) && w.runtime == Runtime::Ours {
            true => assert!(mounted.contains(" / virtiofs"), "{id}: {mounted}"),
            false => overlay(w, &mounted),
        }
        let write = "echo $HOSTNAME > /own; cat /own /top";
        c.ctr(&["tasks", "exec", "--exec-id", "w", id, "sh", "-c", write])
            .exits(0);
    }
    for (id, _) in all.iter().rev() {
        end(c, id);
        c.ctr(&["containers", "delete", id]).exits(0);
    }
}
