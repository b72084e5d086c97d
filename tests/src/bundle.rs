// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! An OCI bundle with a busybox rootfs and the spec that `runc spec` writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Applets that the cases use, as links to busybox.
const APPLETS: &str = "[ awk base64 cat chmod chown cp cut dd df dmesg echo env expr false find free getopt grep head hostname id ip kill \
    killall ln ls lsof md5sum mkdir mkfifo mknod mktemp mount mv nc nproc nice pidof ping printf ps pwd readlink reset rm rmdir sed \
    seq setsid sh sha256sum sleep sort stat stty su sync sysctl tail tar tee test time timeout touch tr true tty ulimit umount \
    uname uniq unlink usleep vi wc which whoami xargs yes";

/// `config.json` beside `rootfs/`.
#[derive(Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub spec: Value,
}

impl Bundle {
    /// A fresh one in `path`; the process is `sh -c script`.
    pub fn create(path: &Path, script: &str) -> Bundle {
        let root = path.join("rootfs");
        for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"] {
            fs::create_dir_all(root.join(dir)).expect("create the rootfs");
        }
        let busybox = root.join("bin/busybox");
        if !busybox.exists() {
            fs::copy("/bin/busybox", &busybox).expect("busybox-static is installed");
            for applet in APPLETS.split_whitespace() {
                symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
            }
            fs::write(
                root.join("etc/passwd"),
                "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
            )
            .expect("write");
            fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").expect("write");
        }
        Bundle::around(path, script)
    }

    /// As [`Bundle::create`], with a rootfs that somebody else puts there.
    pub fn around(path: &Path, script: &str) -> Bundle {
        let _ = fs::remove_file(path.join("config.json"));
        let done = Command::new("runc")
            .args(["spec", "--bundle"])
            .arg(path)
            .status()
            .expect("runc is installed");
        assert!(done.success(), "runc spec");
        let text = fs::read(path.join("config.json")).expect("runc wrote it");
        let spec = serde_json::from_slice(&text).expect("it is JSON");
        let mut bundle = Bundle {
            path: path.to_owned(),
            spec,
        };
        bundle.spec["process"]["terminal"] = json!(false);
        bundle.spec["process"]["args"] = json!(["sh", "-c", script]);
        bundle.spec["root"]["readonly"] = json!(false);
        // Where a test may take longer, so may a guest to come up.
        if let Ok(seconds) = std::env::var("KATA_TEST_DEADLINE") {
            let timeout = "io.katacontainers.config.runtime.create_container_timeout";
            bundle.spec["annotations"][timeout] = json!(seconds);
        }
        bundle.write();
        bundle
    }

    /// Where the rootfs is.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Puts `spec` on disk.
    pub fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.spec).expect("JSON");
        fs::write(self.path.join("config.json"), text).expect("write config.json");
    }

    /// Adds a mount and writes.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.spec["mounts"]
            .as_array_mut()
            .expect("runc spec has mounts")
            .push(mount);
        self.write();
    }

    /// Sets the member at a JSON pointer and writes.
    pub fn set(&mut self, pointer: &str, value: Value) {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer starts with /");
        if let Some(parent) = self.spec.pointer_mut(parent) {
            parent[name] = value;
        } else {
            panic!("no {parent} in the spec");
        }
        self.write();
    }
}
