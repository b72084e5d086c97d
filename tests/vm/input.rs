// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bad input: one clear line, a non-zero exit, nothing left.

use std::fs;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{World, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("input::no_config", |w| {
            let bundle = w.bundle("c", "true");
            fs::remove_file(bundle.path.join("config.json")).expect("remove");
            w.run_with("c", &bundle, b"").refuses(&["config.json", "no such file"]);
        }),
        ours("input::bad_json", |w| {
            let bundle = w.bundle("c", "true");
            fs::write(
                bundle.path.join("config.json"),
                "{\"ociVersion\": \"1.0.0\",\n nonsense",
            )
            .expect("write");
            w.run_with("c", &bundle, b"").refuses(&["config.json", "line 2"]);
        }),
        ours("input::no_bundle", |w| {
            w.oci(&["run", "--bundle", "/no/such/bundle", &w.id("c")])
                .refuses(&["/no/such/bundle"]);
        }),
        ours("input::missing_rootfs", |w| {
            let mut bundle = w.bundle("c", "true");
            bundle.set("/root/path", json!("no-rootfs"));
            w.run_with("c", &bundle, b"").refuses(&["no-rootfs"]);
        }),
        ours("input::an_id_with_a_slash", |w| {
            let bundle = w.bundle("c", "true");
            let path = bundle.path.to_str().expect("UTF-8");
            for id in ["a/b", "..", ""] {
                let outcome = w.oci(&["run", "--bundle", path, id]);
                assert_ne!(outcome.code, 0, "{id:?}");
                assert!(outcome.stderr.contains("id"), "{id:?}: {}", outcome.stderr);
            }
        }),
        ours("input::specs_that_make_no_sense", senseless_specs),
        ours("input::errors_go_to_the_log_as_json", |w| {
            let log = w.dir().join("log.json");
            let mut command = w.runtime();
            command
                .arg("--log")
                .arg(&log)
                .args(["--log-format=json", "start", "nosuch"]);
            vm_tests::command::run(&mut command, b"").refuses(&["container does not exist"]);
            let text = fs::read_to_string(&log).expect("the log");
            let line: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
            assert_eq!(line["level"], "error");
            assert!(
                line["msg"]
                    .as_str()
                    .is_some_and(|msg| msg.contains("container does not exist")),
                "{line}"
            );
        }),
        ours("input::unknown_flags_and_verbs", |w| {
            for args in [
                vec!["frobnicate"],
                vec!["create", "--no-such-flag", "x"],
                vec!["create"],
                vec!["kill"],
            ] {
                assert_ne!(w.oci(&args).code, 0, "{args:?}");
            }
        }),
        ours("input::images_that_cannot_be_had", images),
        ours("input::a_full_disk", full_disk),
    ]
}

fn senseless_specs(w: &World) {
    let cases = [
        ("/process/args", json!([]), "args"),
        ("/process/cwd", json!("relative"), "cwd"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]),
            "RLIMIT_NONSENSE",
        ),
        (
            "/process/capabilities",
            json!({"bounding": ["CAP_NONSENSE"]}),
            "CAP_NONSENSE",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NONSENSE"}),
            "SCMP_ACT_NONSENSE",
        ),
        ("/linux/sysctl", json!({"nonsense.at.all": "1"}), "nonsense"),
    ];
    for (pointer, value, word) in cases {
        let mut bundle = w.bundle("c", "true");
        bundle.set(pointer, value);
        let outcome = w.run_with("c", &bundle, b"");
        assert_ne!(outcome.code, 0, "{pointer}");
        assert!(outcome.stderr.contains(word), "{pointer}: {}", outcome.stderr);
    }
}

fn images(w: &World) {
    let broken = w.dir().join("layout");
    fs::create_dir(&broken).expect("make");
    fs::write(broken.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("write");
    fs::write(broken.join("index.json"), "{}").expect("write");
    let names = [
        "oci:/no/such/layout".to_owned(),
        format!("oci:{}", broken.display()),
        "rootfs:/no/such".to_owned(),
        "docker-archive:/no/such.tar".to_owned(),
        "127.0.0.1:9/none:x".to_owned(),
    ];
    for name in names {
        let mut command = w.kata();
        command.args(["run", "--rm", &name, "true"]);
        let outcome = vm_tests::command::run(&mut command, b"");
        assert_eq!(outcome.code, 125, "{name}: {}", outcome.stderr);
        outcome.refuses(&[]);
    }
}

/// The state directory on a file system of a few pages.
fn full_disk(w: &World) {
    let root = w.root();
    fs::create_dir_all(&root).expect("make");
    let size = Some("size=16k,mode=755");
    nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), nix::mount::MsFlags::empty(), size).expect("mount");
    let filler = vec![0; 16 << 10];
    let _ = fs::write(root.join("filler"), filler);
    let bundle = w.bundle("c", "true");
    let outcome = w.run_with("c", &bundle, b"");
    let _ = fs::remove_file(root.join("filler"));
    let left = fs::read_dir(&root).expect("list").count();
    nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    assert_ne!(outcome.code, 0);
    assert!(
        outcome.stderr.to_lowercase().contains("no space left"),
        "{}",
        outcome.stderr
    );
    assert_eq!(left, 0, "nothing is left");
}
