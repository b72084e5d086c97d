// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Mounts, devices and what hides parts of the file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{World, both};

pub fn cases() -> Vec<Trial> {
    vec![
        both("mounts::bind_directory_both_ways", bind_directory),
        both("mounts::bind_single_file", bind_file),
        both("mounts::bind_read_only", bind_read_only),
        both("mounts::recursive_bind_has_its_submounts", recursive_bind),
        both("mounts::tmpfs_size_and_mode", tmpfs),
        both("mounts::tmpfs_has_the_mode_of_what_it_hides", |w| {
            let mut bundle = w.bundle("c", "stat -c %a /fresh /hidden");
            let hidden = bundle.rootfs().join("hidden");
            fs::create_dir(&hidden).expect("make a directory");
            fs::set_permissions(&hidden, fs::Permissions::from_mode(0o750)).expect("chmod");
            bundle.mount("/fresh", "tmpfs", "tmpfs", &[]);
            bundle.mount("/hidden", "tmpfs", "tmpfs", &[]);
            assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "1777\n750");
        }),
        both("mounts::read_only_root", read_only_root),
        both("mounts::masked_and_read_only_paths", masked_and_read_only_paths),
        both("mounts::default_devices", default_devices),
        both("mounts::spec_devices", spec_devices),
        both("mounts::proc_sys_dev_pts_mqueue_shm", kernel_file_systems),
        both("mounts::a_link_in_the_rootfs_cannot_lead_a_mount_out", escaping_link),
        both("mounts::missing_source_is_refused", missing_source),
        both("mounts::the_root_of_the_pid_is_the_containers", root_of_the_pid),
        both("mounts::later_mounts_hide_earlier_ones", |w| {
            let mut bundle = w.bundle("c", "ls /tmp/a; ls /tmp | wc -l");
            bundle.mount("/tmp/a", "tmpfs", "tmpfs", &[]);
            bundle.mount("/tmp", "tmpfs", "tmpfs", &[]);
            let outcome = w.run_with("c", &bundle, b"");
            assert!(outcome.stderr.contains("No such file"), "{}", outcome.stderr);
            assert_eq!(outcome.text().trim(), "0");
        }),
    ]
}

fn bind_directory(w: &World) {
    let source = w.dir().join("data");
    fs::create_dir(&source).expect("make the source");
    fs::write(source.join("in"), "host\n").expect("write");
    let mut bundle = w.bundle(
        "c",
        "cat /data/in; echo guest > /data/out; chown 7:8 /data/out; mkdir /data/d; ln -s in /data/l",
    );
    bundle.set(
        "/process/capabilities",
        json!({"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}),
    );
    bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["rbind", "rw"]);
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "host");
    assert_eq!(
        fs::read_to_string(source.join("out")).expect("the guest wrote"),
        "guest\n"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(source.join("out")).expect("it exists"));
    assert_eq!(owner, 7);
    assert_eq!(
        fs::read_link(source.join("l")).expect("a link"),
        std::path::Path::new("in")
    );
}

fn bind_file(w: &World) {
    let source = w.dir().join("hosts");
    fs::write(&source, "one\n").expect("write");
    let mut bundle = w.bundle("c", "cat /etc/hosts; echo two >> /etc/hosts");
    bundle.mount("/etc/hosts", "bind", source.to_str().expect("UTF-8"), &["bind"]);
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "one");
    assert_eq!(fs::read_to_string(&source).expect("read"), "one\ntwo\n");
}

fn bind_read_only(w: &World) {
    let source = w.dir().join("data");
    fs::create_dir(&source).expect("make the source");
    let mut bundle = w.bundle("c", "touch /data/x; mount -o remount,rw,bind /data; touch /data/y");
    bundle.mount(
        "/data",
        "bind",
        source.to_str().expect("UTF-8"),
        &["rbind", "ro", "nosuid", "nodev"],
    );
    let outcome = w.run_with("c", &bundle, b"");
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    assert_eq!(fs::read_dir(&source).expect("list").count(), 0);
}

fn recursive_bind(w: &World) {
    let source = w.dir().join("data");
    let below = source.join("below");
    fs::create_dir_all(&below).expect("make the source");
    let size = Some("size=1m");
    nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), size)
        .expect("mount a tmpfs below");
    fs::write(below.join("f"), "below\n").expect("write");
    let mut bundle = w.bundle("c", "cat /data/below/f");
    bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["rbind"]);
    let deep = w.run_with("c", &bundle, b"");
    bundle.spec["mounts"].as_array_mut().expect("mounts").pop();
    bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["bind"]);
    let flat = w.run_with("c", &bundle, b"");
    nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    assert_eq!(deep.exits(0).text(), "below");
    assert_ne!(flat.code, 0, "a plain bind leaves the submounts out");
}

fn tmpfs(w: &World) {
    let mut bundle = w.bundle(
        "c",
        "stat -c %a /t; stat -f -c %T /t; dd if=/dev/zero of=/t/f bs=1M count=8 2>/dev/null; stat -c %s /t/f",
    );
    bundle.mount("/t", "tmpfs", "tmpfs", &["nosuid", "size=4m", "mode=1770"]);
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(seen, format!("1770\ntmpfs\n{}", 4 << 20));
}

fn read_only_root(w: &World) {
    let mut bundle = w.bundle("c", "touch /x || echo refused; touch /dev/shm/y && echo shm");
    bundle.set("/root/readonly", json!(true));
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "refused\nshm");
}

fn masked_and_read_only_paths(w: &World) {
    let script = "cat /etc/secret | wc -c; ls /var/hidden | wc -l; echo x > /etc/fixed || echo refused; echo 1 > /proc/sys/kernel/msgmax || echo sys";
    let mut bundle = w.bundle("c", script);
    fs::write(bundle.rootfs().join("etc/secret"), "secret").expect("write");
    fs::write(bundle.rootfs().join("etc/fixed"), "").expect("write");
    fs::create_dir(bundle.rootfs().join("var/hidden")).expect("make");
    fs::write(bundle.rootfs().join("var/hidden/f"), "").expect("write");
    bundle.set("/linux/maskedPaths", json!(["/etc/secret", "/var/hidden", "/no/such"]));
    bundle.set("/linux/readonlyPaths", json!(["/etc/fixed", "/proc/sys", "/no/such"]));
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(
        seen.split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "refused", "sys"]
    );
}

fn default_devices(w: &World) {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
        for l in fd stdin stdout stderr; do readlink /dev/$l; done; echo x > /dev/full || echo full; head -c 4 /dev/zero | wc -c";
    let seen = w.sh(script).exits(0).text();
    let devices = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666";
    let links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2";
    assert_eq!(seen, format!("{devices}\n{links}\nfull\n4"));
}

fn spec_devices(w: &World) {
    let mut bundle = w.bundle(
        "c",
        "stat -c '%n %t:%T %a %u:%g' /dev/mine /dev/deep/er; head -c 3 /dev/mine | wc -c",
    );
    let device =
        |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 0, "gid": 4});
    bundle.set("/linux/devices", json!([device("/dev/mine"), device("/dev/deep/er")]));
    bundle.set(
        "/linux/resources",
        json!({"devices": [{"allow": true, "access": "rwm"}]}),
    );
    let seen = w.run_with("c", &bundle, b"").exits(0).text();
    assert_eq!(seen, "/dev/mine 1:5 640 0:4\n/dev/deep/er 1:5 640 0:4\n3");
}

fn kernel_file_systems(w: &World) {
    let seen = w.sh("for m in /proc /sys /dev /dev/pts /dev/mqueue /dev/shm; do awk -v m=$m '$2==m {print $3}' /proc/mounts | tail -1; done");
    assert_eq!(seen.exits(0).text(), "proc\nsysfs\ntmpfs\ndevpts\nmqueue\ntmpfs");
}

fn escaping_link(w: &World) {
    let outside = w.dir().join("outside");
    fs::create_dir(&outside).expect("make");
    let mut bundle = w.bundle("c", "echo inside > /out/f");
    std::os::unix::fs::symlink(&outside, bundle.rootfs().join("out")).expect("link");
    bundle.mount("/out", "tmpfs", "tmpfs", &[]);
    w.run_with("c", &bundle, b"");
    assert_eq!(
        fs::read_dir(&outside).expect("list").count(),
        0,
        "nothing was mounted or written outside"
    );
}

fn missing_source(w: &World) {
    let mut bundle = w.bundle("c", "true");
    bundle.mount("/data", "bind", "/no/such/source", &["rbind"]);
    let outcome = w.run_with("c", &bundle, b"");
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("/no/such/source"), "{}", outcome.stderr);
}

/// Engines copy files through the mount namespace of the pid that they were given.
fn root_of_the_pid(w: &World) {
    let volume = w.dir().join("volume");
    fs::create_dir(&volume).expect("make");
    fs::write(volume.join("f"), "of the volume").expect("write");
    let mut bundle = w.bundle("c", "while [ ! -e /root/copied ]; do sleep 0.1; done; cat /root/copied");
    bundle.mount("/data", "bind", volume.to_str().expect("UTF-8"), &["rbind"]);
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let enter = |script: &str| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["--mount", "--target", &pid.to_string(), "--", "/bin/sh", "-c", script]);
        vm_tests::command::run(&mut command, b"")
    };
    assert_eq!(enter("cat /data/f").exits(0).text(), "of the volume");
    assert_ne!(
        enter(&format!("ls {}", w.dir().display())).code,
        0,
        "the host is not there"
    );
    enter("echo through > /root/copied").exits(0);
    assert!(bundle.rootfs().join("root/copied").exists());
    w.until_status("c", "stopped");
    w.oci(&["delete", &w.id("c")]).exits(0);
}
