// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What applications do to files, on the shared file system.

use libtest_mimic::Trial;
use vm_tests::{World, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("files::posix_torture", torture),
        ours("files::a_directory_of_100000_files", |w| {
            let source = w.dir().join("many");
            std::fs::create_dir(&source).expect("make");
            for i in 0..100_000 {
                std::fs::File::create(source.join(format!("f{i}"))).expect("create");
            }
            let mut bundle = w.bundle(
                "c",
                "ls -1 /many | wc -l; ls -l /many | tail -1 | awk '{print $NF}'; rm -r /many/f9*; ls -1 /many | wc -l",
            );
            bundle.mount("/many", "bind", source.to_str().expect("UTF-8"), &["rbind"]);
            let seen = w.run_with("c", &bundle, b"").exits(0).text();
            let words: Vec<&str> = seen.split_whitespace().collect();
            assert_eq!(words[1], "f99999", "{seen}");
            let counts = [words[0], words[2]].map(|word| word.parse::<usize>().expect("a count"));
            assert_eq!(counts[0] - counts[1], 11_111, "{seen}");
            assert_eq!(std::fs::read_dir(&source).expect("list").count(), 88_889);
        }),
        ours("files::links_cannot_leave_the_share", escapes),
    ]
}

/// The checks are a program of the device crate's; it must hold on the host's own file system first.
fn torture(w: &World) {
    let program = vm_tests::world::binaries().join("examples/posix_torture");
    assert!(program.exists(), "{} is missing: make build", program.display());
    let data = w.dir().join("data");
    let host = w.dir().join("host");
    for dir in [&data, &host] {
        std::fs::create_dir(dir).expect("make");
    }
    let outcome = command::run(std::process::Command::new(&program).arg(&host), b"");
    outcome.exits(0);
    let mut bundle = w.bundle("c", "exec /posix_torture /data");
    std::fs::copy(&program, bundle.rootfs().join("posix_torture")).expect("copy");
    bundle.mount("/data", "bind", data.to_str().expect("UTF-8"), &["rbind"]);
    let all = serde_json::json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_MKNOD",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_ADMIN"
    ]);
    bundle.set(
        "/process/capabilities",
        serde_json::json!({"bounding": all, "effective": all, "permitted": all}),
    );
    bundle.set(
        "/linux/resources",
        serde_json::json!({"devices": [{"allow": true, "access": "rwm"}]}),
    );
    let inside = w.run_with("c", &bundle, b"");
    assert!(!inside.text().contains("FAIL"), "{}", inside.text());
    inside.exits(0);
    let count = |text: &str| text.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(
        count(&inside.text()),
        count(&outcome.text()),
        "every check ran inside as well: {}",
        inside.text()
    );
}

fn escapes(w: &World) {
    std::fs::write(w.dir().join("secret"), "secret").expect("write");
    let source = w.dir().join("data");
    std::fs::create_dir(&source).expect("make");
    std::os::unix::fs::symlink(w.dir().join("secret"), source.join("absolute")).expect("link");
    std::os::unix::fs::symlink("../secret", source.join("relative")).expect("link");
    let mut bundle = w.bundle(
        "c",
        "cat /data/absolute /data/relative /data/../secret /data/../../../../../../secret 2>/dev/null; echo end",
    );
    bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["rbind"]);
    assert_eq!(w.run_with("c", &bundle, b"").exits(0).text(), "end");
}
