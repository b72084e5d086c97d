// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Root file systems that containerd keeps in files of their own: a container's whole one (the blockfile snapshotter, containerd 1.7 and
//! later), or each layer (erofs, 2.1 and later).

mod erofs;

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::containerd::Containerd;
use vm_tests::suite::Suite;
use vm_tests::{Runtime, Verdict, World, both, command};

use crate::containerd::Netns;

const SNAPSHOTTER: [&str; 2] = ["--snapshotter", "blockfile"];

pub fn cases() -> Vec<Trial> {
    let case = |suite: Suite| {
        both(&format!("{}::blockfile", suite.group("snapshotters")), move |w| {
            let c = match Containerd::new(w, suite) {
                Ok(containerd) => containerd,
                Err(why) => return Verdict::Skipped(why),
            };
            if let Err(why) = configure(&c, w) {
                return Verdict::Skipped(why);
            }
            let mut seen = Behaviours::new(&c.client, w);
            seen.see("block snapshotters", || {
                alone(&c, w);
                pod(&c, w);
            });
            seen.end();
            Verdict::Held
        })
    };
    Suite::ALL.map(case).into_iter().chain(erofs::cases()).collect()
}

/// Errors: why it cannot be had.
fn configure(c: &Containerd<'_>, w: &World) -> Result<(), String> {
    let scratch = w.dir().join("scratch");
    let made = File::create(&scratch).and_then(|file| file.set_len(64 << 20));
    made.expect("make a file");
    let mut mke2fs = Command::new("mke2fs");
    command::run(mke2fs.args(["-q", "-F", "-t", "ext4"]).arg(&scratch), b"").exits(0);
    let said = format!(
        "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nroot_path = \"{0}/engine/blocks\"\nscratch_file = \"{0}/scratch\"\n\
         fs_type = \"ext4\"\nmount_options = []\nrecreate_scratch = true\n",
        w.dir().display()
    );
    reconfigure(c, w, &said, "blockfile")
}

/// Starts containerd with more configuration. Errors: it has no `snapshotter`.
fn reconfigure(c: &Containerd<'_>, w: &World, more: &str, snapshotter: &str) -> Result<(), String> {
    let config = File::options().append(true).open(w.dir().join("containerd.toml"));
    let written = config.and_then(|mut config| config.write_all(more.as_bytes()));
    written.expect("configure containerd");
    c.restart();
    let plugins = c.ctr(&["plugins", "ls"]).text();
    let ready = |line: &str| {
        line.starts_with("io.containerd.snapshotter") && line.contains(snapshotter) && line.trim_end().ends_with("ok")
    };
    if plugins.lines().any(ready) {
        Ok(())
    } else {
        Err(format!("{} has no {snapshotter} snapshotter", c.client))
    }
}

fn run(c: &Containerd<'_>, options: &[&str], name: &str, script: &str) -> String {
    c.run(&[&SNAPSHOTTER[..], options].concat(), name, script)
        .exits(0)
        .text()
}

/// What is at the root of a container that runs.
fn root(c: &Containerd<'_>, name: &str) -> String {
    let look = [
        "tasks",
        "exec",
        "--exec-id",
        "look",
        name,
        "sh",
        "-c",
        "head -n 1 /proc/mounts",
    ];
    c.ctr(&look).exits(0).text()
}

fn alone(c: &Containerd<'_>, w: &World) {
    let mounted = run(
        c,
        &["--rm"],
        "a",
        "head -n 1 /proc/mounts; ls -d /lost+found; echo x > /x; cat /x",
    );
    assert!(mounted.contains(" / ext4 rw"), "{mounted}");
    assert!(mounted.ends_with("/lost+found\nx"), "{mounted}");
    if w.runtime == Runtime::Ours {
        assert!(mounted.starts_with("/dev/vd"), "a device of the machine: {mounted}");
    }
    run(c, &["-d"], "b", "sleep 1000");
    let write = "head -c 1000000 /dev/zero > /big; mkdir /d; echo kept > /d/f";
    c.ctr(&["tasks", "exec", "--exec-id", "e", "b", "sh", "-c", write])
        .exits(0);
    end(c, "b");
    // It is all there for whoever mounts the snapshot next.
    let place = w.dir().join("snapshot");
    fs::create_dir(&place).expect("make a directory");
    let words = [
        &["snapshots"][..],
        &SNAPSHOTTER,
        &["mounts", place.to_str().expect("UTF-8"), "b"],
    ]
    .concat();
    let line = c.ctr(&words).exits(0).text();
    command::run(Command::new("sh").args(["-c", &line]), b"").exits(0);
    let kept = fs::read_to_string(place.join("d/f"));
    let big = fs::metadata(place.join("big")).map(|found| found.len());
    command::run(Command::new("umount").arg(&place), b"").exits(0);
    assert_eq!((kept.expect("read"), big.expect("look")), ("kept\n".into(), 1_000_000));
    c.ctr(&["containers", "delete", "b"]).exits(0);
}

/// More of them than a machine has places for block devices: the others are mounted on the host, as CRI has a new one for each container.
fn pod(c: &Containerd<'_>, w: &World) {
    let name = w.id("net");
    let _netns = Netns::add(&name);
    let network = format!("network:/run/netns/{name}");
    let make = |id: &str, kind: &str| {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let sandbox = "io.kubernetes.cri.sandbox-id=pod";
        let options = [
            "-d",
            "--with-ns",
            &network,
            "--annotation",
            &kind,
            "--annotation",
            sandbox,
        ];
        run(c, &options, id, "sleep 1000");
    };
    make("pod", "sandbox");
    let names = ["one", "two", "three"];
    for name in names {
        make(name, "container");
    }
    for name in ["pod", "one", "two", "three"] {
        let mounted = root(c, name);
        let shared = ["pod", "three"].contains(&name) && w.runtime == Runtime::Ours;
        assert!(
            mounted.contains(if shared { " / virtiofs" } else { " / ext4" }),
            "{name}: {mounted}"
        );
        let write = [
            "tasks",
            "exec",
            "--exec-id",
            "w",
            name,
            "sh",
            "-c",
            "echo $HOSTNAME > /own; cat /own",
        ];
        c.ctr(&write).exits(0);
    }
    for name in ["one", "two", "three", "pod"] {
        end(c, name);
        c.ctr(&["containers", "delete", name]).exits(0);
    }
}

fn end(c: &Containerd<'_>, name: &str) {
    c.ctr(&["tasks", "kill", "-s", "KILL", name]).exits(0);
    c.until(name, "STOPPED");
    // It tells of the exit code.
    c.ctr(&["tasks", "delete", name]);
    assert!(c.task(name).is_none());
}
