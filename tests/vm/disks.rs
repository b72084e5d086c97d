// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices of the host in a container: as nodes, as sources of mounts, with what the rules allow.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;
use nix::sys::stat::{major, minor, stat};
use serde_json::{Value, json};
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::podman::Podman;
use vm_tests::suite::Suite;
use vm_tests::{Bundle, Verdict, World, both, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        both("disks::a_node_of_the_hosts_device_works", node),
        both("disks::a_file_system_on_it_is_mounted_inside", mounted),
        both("disks::what_the_rules_deny_is_denied", denied),
        both("disks::a_file_system_is_mounted_by_the_spec", source),
        both("disks::a_node_is_bound", bound),
        both("disks::several_at_once", several),
        both("disks::podman_device", podman),
        ours("disks::the_guest_cannot_write_what_is_read_only", read_only),
        ours("disks::a_privileged_container_gets_none_of_the_hosts", privileged),
        ours("disks::a_guest_without_place_for_them_says_so", too_many),
    ]
}

/// A block device of the host, of a file; both go with it.
struct Loop {
    path: String,
    file: PathBuf,
}

impl Loop {
    /// None where this host has no loop devices.
    fn new(w: &World, name: &str, mib: u64) -> Option<Loop> {
        let file = w.dir().join(name);
        fs::File::create(&file)
            .and_then(|file| file.set_len(mib << 20))
            .expect("make a file");
        let made = command::run(Command::new("losetup").args(["--find", "--show"]).arg(&file), b"");
        (made.code == 0).then(|| Loop {
            path: made.text().trim().to_owned(),
            file,
        })
    }

    fn numbers(&self) -> (u64, u64) {
        let found = stat(self.path.as_str()).expect("look at it");
        (major(found.st_rdev), minor(found.st_rdev))
    }

    fn node(&self, path: &str) -> Value {
        let (major, minor) = self.numbers();
        json!({"path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o640, "uid": 0, "gid": 6})
    }

    fn rule(&self, access: &str) -> Value {
        let (major, minor) = self.numbers();
        json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access})
    }

    fn format(&self) {
        command::run(Command::new("mkfs.ext4").args(["-q", &self.path]), b"").exits(0);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let gone = command::run(Command::new("losetup").args(["--detach", &self.path]), b"");
        if gone.code != 0 {
            eprintln!("losetup --detach: {}", gone.stderr);
        }
    }
}

fn no_loop() -> Verdict {
    Verdict::Skipped("this host has no loop devices".into())
}

/// A container with these devices, and rules that allow nothing else.
fn bundle(w: &World, script: &str, devices: &[(&Loop, &str, &str)]) -> Bundle {
    let mut bundle = w.bundle("c", script);
    let nodes: Vec<Value> = devices.iter().map(|(device, path, _)| device.node(path)).collect();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(devices.iter().map(|(device, _, access)| device.rule(access)));
    bundle.set("/linux/devices", json!(nodes));
    bundle.set("/linux/resources", json!({ "devices": rules }));
    bundle
}

fn with_capabilities(bundle: &mut Bundle, more: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(more));
    }
}

fn node(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let script = "stat -c '%F %a %u %g' /dev/data; wc -c < /dev/data; \
                  echo from inside | dd of=/dev/data bs=512 seek=5 conv=sync,notrunc,fsync 2>/dev/null; \
                  dd if=/dev/data bs=512 skip=5 count=1 2>/dev/null | head -c 11";
    let bundle = bundle(w, script, &[(&disk, "/dev/data", "rw")]);
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(seen, "block special file 640 0 6\n8388608\nfrom inside");
    let content = fs::read(&disk.file).expect("read the file behind it");
    assert_eq!(&content[5 * 512..5 * 512 + 11], b"from inside");
    Verdict::Held
}

fn mounted(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 16) else {
        return no_loop();
    };
    disk.format();
    let script = "mkdir -p /tmp/m; mount -t ext4 /dev/data /tmp/m && echo kept > /tmp/m/f && umount /tmp/m && \
                  mount -t ext4 -o ro /dev/data /tmp/m && cat /tmp/m/f && umount /tmp/m";
    let mut bundle = bundle(w, script, &[(&disk, "/dev/data", "rw")]);
    with_capabilities(&mut bundle, &["CAP_SYS_ADMIN"]);
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text().trim(), "kept");
    Verdict::Held
}

fn denied(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let write = "(dd if=/dev/zero of=/dev/data bs=512 count=1 conv=notrunc 2>&1 || true) | grep -c 'not permitted'";
    let script = format!("{write}; dd if=/dev/data bs=512 count=1 2>/dev/null | wc -c");
    let readable = bundle(w, &script, &[(&disk, "/dev/data", "r")]);
    assert_eq!(w.run_with("c", &readable, b"").exits(0).text().trim(), "1\n512");
    let script = "dd if=/dev/data of=/dev/null bs=512 count=1 2>&1 | grep -c 'not permitted'; ls /dev/data";
    let hidden = bundle(w, script, &[(&disk, "/dev/data", "m")]);
    assert_eq!(w.run_with("c", &hidden, b"").exits(0).text().trim(), "1\n/dev/data");
    Verdict::Held
}

fn source(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 16) else {
        return no_loop();
    };
    disk.format();
    let mut first = w.bundle("c", "echo kept > /data/f && sync");
    first.mount("/data", "ext4", &disk.path, &["rw"]);
    w.run_with("c", &first, b"").exits(0);
    let mut second = w.bundle("c", "cat /data/f; touch /data/g 2>&1 | grep -c 'Read-only'");
    second.mount("/data", "ext4", &disk.path, &["ro"]);
    assert_eq!(w.run_with("c", &second, b"").exits(0).text().trim(), "kept\n1");
    Verdict::Held
}

fn bound(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let mut bundle = bundle(w, "wc -c < /data; stat -c %F /data", &[]);
    bundle.set(
        "/linux/resources/devices",
        json!([{"allow": false, "access": "rwm"}, disk.rule("r")]),
    );
    bundle.mount("/data", "bind", &disk.path, &["bind"]);
    assert_eq!(
        w.run_with("c", &bundle, b"").exits(0).text().trim(),
        "8388608\nblock special file"
    );
    Verdict::Held
}

fn several(w: &World) -> Verdict {
    let disks: Option<Vec<Loop>> = (1..=3).map(|n| Loop::new(w, &format!("disk{n}"), n)).collect();
    let Some(disks) = disks else { return no_loop() };
    let script = "wc -c < /dev/a; wc -c < /dev/b; wc -c < /dev/c; wc -c < /dev/again";
    let devices = [
        (&disks[0], "/dev/a", "r"),
        (&disks[1], "/dev/b", "rw"),
        (&disks[2], "/dev/c", "r"),
        (&disks[1], "/dev/again", "rw"),
    ];
    let bundle = bundle(w, script, &devices);
    let sizes = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(sizes.trim(), "1048576\n2097152\n3145728\n2097152");
    Verdict::Held
}

fn podman(w: &World) -> Verdict {
    let podman = match Podman::new(w, Suite::Host) {
        Ok(podman) => podman,
        Err(why) => return Verdict::Skipped(why),
    };
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let device = format!("{}:/dev/xvdc:r", disk.path);
    let script = "wc -c < /dev/xvdc; dd if=/dev/zero of=/dev/xvdc bs=512 count=1 2>/dev/null || echo denied";
    let run = ["run", "--rm", "--network", "none", "--device", &device, IMAGE];
    let seen = podman.run(&[&run[..], &["sh", "-c", script]].concat());
    assert_eq!(seen.exits(0).text().trim(), "8388608\ndenied");
    let script = "echo x | dd of=/dev/xvdd bs=512 conv=sync,fsync 2>/dev/null && head -c 1 /dev/xvdd";
    let device = format!("{}:/dev/xvdd", disk.path);
    let run = ["run", "--rm", "--network", "none", "--device", &device, IMAGE];
    let seen = podman.run(&[&run[..], &["sh", "-c", script]].concat());
    assert_eq!(seen.exits(0).text().trim(), "x");
    assert_eq!(
        fs::read(&disk.file).expect("read the file behind it").first(),
        Some(&b'x')
    );
    Verdict::Held
}

fn read_only(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let script = "cat /sys/dev/block/$(printf '%d:%d' $(stat -c '0x%t 0x%T' /dev/data))/ro";
    let readable = bundle(w, script, &[(&disk, "/dev/data", "r")]);
    assert_eq!(w.run_with("c", &readable, b"").exits(0).text().trim(), "1");
    let writable = bundle(w, script, &[(&disk, "/dev/data", "rw")]);
    assert_eq!(w.run_with("c", &writable, b"").exits(0).text().trim(), "0");
    Verdict::Held
}

fn privileged(w: &World) -> Verdict {
    let Some(disk) = Loop::new(w, "disk", 8) else {
        return no_loop();
    };
    let mut bundle = bundle(w, "ls /sys/block | grep -c ^vd; wc -c < /dev/data", &[]);
    bundle.set("/linux/devices", json!([disk.node(&disk.path), disk.node("/dev/data")]));
    bundle.set(
        "/linux/resources",
        json!({"devices": [{"allow": true, "access": "rwm"}]}),
    );
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(seen.trim(), "1\n8388608", "what stands elsewhere was asked for");
    bundle.set("/linux/devices", json!([disk.node(&disk.path)]));
    bundle.set("/process/args", json!(["sh", "-c", "ls /sys/block | grep -c ^vd"]));
    assert_eq!(w.run_with("c", &bundle, b"").text().trim(), "0");
    Verdict::Held
}

fn too_many(w: &World) -> Verdict {
    let disks: Option<Vec<Loop>> = (1..=9).map(|n| Loop::new(w, &format!("disk{n}"), 1)).collect();
    let Some(disks) = disks else { return no_loop() };
    let paths: Vec<String> = (1..=9).map(|n| format!("/dev/d{n}")).collect();
    let devices: Vec<(&Loop, &str, &str)> = disks
        .iter()
        .zip(&paths)
        .map(|(disk, path)| (disk, path.as_str(), "r"))
        .collect();
    let refused = w.run_with("c", &bundle(w, "true", &devices), b"");
    refused.refuses(&["9 block devices", "8 are possible"]);
    Verdict::Held
}
