// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a configuration says takes effect: sizes, templates, profiles by name, annotations that may or may not be there. And `kata
//! config` itself, which makes no machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::containerd::Containerd;
use vm_tests::suite::Suite;
use vm_tests::{Outcome, Verdict, World, command, ours, world};

use crate::template::booted;

const PREFIX: &str = "io.katacontainers.config.";

pub fn cases() -> Vec<Trial> {
    vec![
        ours("config::sizes_and_templates", sizes),
        ours("config::parameters_of_the_kernel", parameters),
        ours("config::drop_ins_and_profiles", profiles),
        ours("config::profiles_and_files_of_containerd", containerd),
        ours("config::annotations_that_are_not_allowed", refused),
        ours("config::annotations_go_first", allowed),
        ours("config::paths_of_annotations_stay_where_they_may", paths),
        ours("config::a_mistake_keeps_nobody_from_deleting", mistaken),
        ours("config::what_is_not_there_is_named", missing),
        ours("config::of_kata_run", porcelain),
        ours("config::shown_with_its_origin", shown),
        ours("config::checked", checked),
        ours("config::imported_from_kata", imported),
    ]
}

/// What the guest says of its memory, MiB.
const MEMORY: &str = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";

/// A machine of `size` MiB: its kernel keeps some.
#[track_caller]
fn has(memory: &str, size: u64) {
    let total: u64 = memory.trim().parse().unwrap_or_else(|_| panic!("{memory:?}"));
    assert!(total <= size && total > size / 2, "{total} of {size} MiB");
}

fn annotated(w: &World, name: &str, script: &str, pairs: &[(&str, &str)]) -> Outcome {
    let mut bundle = w.bundle(name, script);
    for (key, value) in pairs {
        bundle.spec["annotations"][format!("{PREFIX}{key}")] = json!(value);
    }
    bundle.write();
    w.run_with(name, &bundle, b"")
}

fn sizes(w: &World) {
    w.configure("[machine]\nvcpus = 2\nmemory = 512\nmax_vcpus = 3\n[template]\nenable = false\n");
    let bundle = w.bundle("c", "nproc; exec sleep 1000");
    w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let inside = |script: &str| w.oci(&["exec", &w.id("c"), "sh", "-c", script]).exits(0).text();
    has(&inside(MEMORY), 512);
    let host = thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(inside("nproc"), host.min(2).to_string());
    // Those that the machine may grow by are there, and sleep.
    assert_eq!(
        inside("cat /sys/devices/system/cpu/present"),
        format!("0-{}", host.clamp(2, 3) - 1)
    );
    let state = fs::read(w.sandbox("c").join("state.json")).expect("the saved state");
    assert!(booted(&serde_json::from_slice(&state).expect("JSON")), "no template");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn parameters(w: &World) {
    w.configure("guest.kernel_params = \"kata_test=file\"\n");
    let line = w.sh("cat /proc/cmdline");
    assert!(line.exits(0).text().contains("kata_test=file"), "{}", line.text());
    let line = annotated(
        w,
        "a",
        "cat /proc/cmdline",
        &[("hypervisor.kernel_params", "kata_test=annotation")],
    );
    assert!(
        line.exits(0).text().contains("kata_test=file kata_test=annotation"),
        "the kernel takes the last: {}",
        line.text()
    );
}

fn profiles(w: &World) {
    w.configure("[machine]\nmemory = 768\n[profile.small.machine]\nmemory = 512\n[template]\nenable = false\n");
    let drop_ins = w.dir().join("kata.d");
    fs::create_dir(&drop_ins).expect("make a directory");
    fs::write(drop_ins.join("10.toml"), "[profile.tiny.machine]\nmemory = 320\n").expect("write");
    let kata = fs::canonicalize(world::binaries().join("kata")).expect("kata is built");
    let named = w.dir().join("kata-runtime-tiny");
    symlink(kata, &named).expect("link");
    let bundle = w.bundle("c", MEMORY);
    let run = |mut command: Command| {
        command.arg("--root").arg(w.root()).args(["run", "--bundle"]);
        command::run(command.arg(&bundle.path).arg(w.id("c")), b"")
    };
    let by_name = || {
        let mut command = Command::new(&named);
        command.env("KATA_CONFIG", w.dir().join("kata.toml"));
        command
    };
    has(&w.run_with("c", &bundle, b"").exits(0).text(), 768);
    has(&run(by_name()).exits(0).text(), 320);
    let mut option = by_name();
    option.args(["--profile", "small"]);
    has(&run(option).exits(0).text(), 512);
    let mut unknown = by_name();
    unknown.args(["--profile", "huge"]);
    run(unknown).refuses(&["no profile huge", "qemu, small, tiny", "[profile.huge]"]);
}

fn containerd(w: &World) -> Verdict {
    let c = match Containerd::new(w, Suite::Host) {
        Ok(containerd) => containerd,
        Err(why) => return Verdict::Skipped(why),
    };
    let kata = fs::canonicalize(world::binaries().join("kata")).expect("kata is built");
    symlink(kata, w.dir().join("bin/containerd-shim-kata-small-v2")).expect("link the shim");
    w.configure("[template]\nenable = false\n[machine]\nmemory = 640\n[profile.small.machine]\nmemory = 320\n");
    let file = w.dir().join("kata.toml");
    let file = file.to_str().expect("UTF-8");
    let run = |kind: &str, name: &str, file: &str| {
        let words = ["run", "--rm", "--runtime", kind, "--runtime-config-path", file];
        c.ctr(&[&words[..], &[vm_tests::containerd::IMAGE, name, "sh", "-c", MEMORY]].concat())
    };
    has(&run("io.containerd.kata.v2", "a", file).exits(0).text(), 640);
    has(&run("io.containerd.kata-small.v2", "b", file).exits(0).text(), 320);
    let wrong = run("io.containerd.kata.v2", "c", "/no/such.toml");
    assert!(
        wrong.code != 0 && wrong.stderr.contains("/no/such.toml"),
        "{}",
        wrong.stderr
    );
    Verdict::Held
}

fn refused(w: &World) {
    w.configure("annotations.enable_annotations = [\"default_memory\"]\n");
    annotated(w, "a", "true", &[("hypervisor.default_vcpus", "1")]).refuses(&[
        "io.katacontainers.config.hypervisor.default_vcpus is not allowed",
        "add \"default_vcpus\" to enable_annotations",
    ]);
    // Also one that would change nothing.
    annotated(w, "a", "true", &[("runtime.sandbox_cgroup_only", "true")])
        .refuses(&["sandbox_cgroup_only is not allowed"]);
    // By default, what the host's paths and programs are is not for containers to say.
    w.configure("");
    annotated(w, "a", "true", &[("hypervisor.virtio_fs_daemon", "/bin/true")])
        .refuses(&["virtio_fs_daemon is not allowed"]);
    annotated(w, "a", "true", &[("hypervisor.path", "/bin/true")]).refuses(&["valid_hypervisor_paths"]);
}

fn allowed(w: &World) {
    w.configure("machine.memory = 768\ntemplate.enable = false\nannotations.enable_annotations = [\"default_.*\", \"pcie_.*\"]\n");
    let outcome = annotated(
        w,
        "a",
        &format!("{MEMORY}; cat /sys/devices/system/cpu/present"),
        &[
            ("hypervisor.default_memory", "384"),
            ("hypervisor.default_max_vcpus", "1"),
            ("hypervisor.pcie_root_port", "2"),
            ("hypervisor.nobody_knows", "1"),
        ],
    );
    let text = outcome.exits(0).text();
    let (memory, processors) = text.split_once('\n').expect("two lines");
    has(memory, 384);
    assert_eq!(processors, "0", "it cannot grow");
    for (name, words) in [
        ("pcie_root_port", "means nothing here"),
        ("nobody_knows", "is not known"),
    ] {
        let lines = outcome.stderr.lines().filter(|line| line.contains(name));
        let lines: Vec<&str> = lines.collect();
        assert!(lines.len() == 1 && lines[0].contains(words), "{}", outcome.stderr);
    }
}

fn paths(w: &World) {
    let store =
        std::env::var_os("KATA_GUEST_DIR").map_or_else(|| "/var/lib/kata/guest".into(), std::path::PathBuf::from);
    let kernel = store.join("default/vmlinux");
    let copy = w.dir().join("vmlinux");
    fs::copy(&kernel, &copy).expect("copy the kernel");
    let with = |path: &std::path::Path| {
        let path = path.to_str().expect("UTF-8");
        annotated(w, "a", "echo up", &[("hypervisor.kernel", path)])
    };
    assert_eq!(with(&kernel).exits(0).text(), "up", "the store's own");
    with(&copy).refuses(&["hypervisor.kernel", "valid_kernel_paths", "vmlinux"]);
    w.configure(&format!(
        "annotations.valid_kernel_paths = [\"{}/*\"]\n",
        w.dir().display()
    ));
    assert_eq!(with(&copy).exits(0).text(), "up");
    let link = w.dir().join("link");
    symlink("/etc/passwd", &link).expect("link");
    with(&link).refuses(&["/etc/passwd", "valid_kernel_paths"]);
}

fn mistaken(w: &World) {
    w.create("c", &w.bundle("c", "sleep 1000"));
    w.configure("[machine]\nvcpu = 2\n");
    let refused = w.run_with("d", &w.bundle("d", "true"), b"");
    refused.refuses(&["kata.toml:2:1: unknown key machine.vcpu", "did you mean vcpus?"]);
    let killed = w.oci(&["kill", &w.id("c"), "KILL"]);
    assert!(
        killed.exits(0).stderr.contains("unknown key machine.vcpu"),
        "{}",
        killed.stderr
    );
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn missing(w: &World) {
    w.configure("hypervisor.path = \"/no/such/qemu\"\ntemplate.enable = false\n");
    w.sh("true").refuses(&["/no/such/qemu"]);
    w.configure("hypervisor.name = \"xen\"\n");
    w.sh("true").refuses(&["unknown hypervisor \"xen\""]);
    w.configure("guest.image = \"other\"\n");
    w.sh("true").refuses(&["other"]);
}

fn kata(w: &World, args: &[&str]) -> Outcome {
    command::run(w.kata().args(args), b"")
}

fn porcelain(w: &World) {
    let image = format!("rootfs:{}", w.bundle("image", "true").rootfs().display());
    w.configure("[machine]\nmemory = 512\n[run]\nnetwork = \"none\"\n[template]\nenable = false\n");
    let script = format!("{MEMORY}; ls /sys/class/net | tr '\\n' ' '");
    let run = |options: &[&str]| {
        let words = [&["run", "--rm"], options, &[&image, "sh", "-c", &script]].concat();
        kata(w, &words).exits(0).text()
    };
    let text = run(&[]);
    let (memory, interfaces) = text.split_once('\n').expect("two lines");
    has(memory, 512);
    assert_eq!(interfaces.trim(), "lo");
    // An administrator who allows no annotation has options all the same.
    w.configure("annotations.enable_annotations = []\n[machine]\nmemory = 512\n[run]\nnetwork = \"none\"\n");
    has(
        run(&["--hypervisor", "qemu", "--template", "off"])
            .lines()
            .next()
            .unwrap_or_default(),
        512,
    );
    let annotation = format!("{PREFIX}hypervisor.default_memory=384");
    kata(w, &["run", "--rm", "--annotation", &annotation, &image, "true"])
        .exits(125)
        .refuses(&["default_memory is not allowed"]);
}

fn shown(w: &World) {
    w.configure("[machine]\nvcpus = 2\n");
    let text = kata(w, &["config", "show", "machine"]).exits(0).text();
    let at = w.dir().join("kata.toml");
    assert!(
        text.contains(&format!("\nvcpus = 2  # {}:2:1\n", at.display())),
        "{text}"
    );
    assert!(text.contains("\nmemory = 2048  # default\n"), "{text}");
    let shown = kata(w, &["config", "show", "--json"]).exits(0).text();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["keys"]["runtime.root"]["from"], "KATA_RUN_DIR");
    assert_eq!(shown["keys"]["machine.vcpus"]["value"], 2);
    kata(w, &["config", "show", "machine.cpus"]).refuses(&["no key and no section machine.cpus"]);
    kata(w, &["--profile", "none", "config", "show"]).refuses(&["no profile none"]);
}

fn checked(w: &World) {
    // The packaged file.
    let packaged = kata(w, &["config", "show", "--default"]).exits(0).text();
    let file = w.dir().join("packaged.toml");
    fs::write(&file, &packaged).expect("write");
    kata(w, &["config", "check", file.to_str().expect("UTF-8")]).exits(0);
    let bad = w.dir().join("bad.toml");
    fs::write(
        &bad,
        "[machine]\nmemory = \"1g\"\n[guest]\nkernel = \"/no/such\"\n[nonsense]\n",
    )
    .expect("write");
    let outcome = kata(w, &["config", "check", bad.to_str().expect("UTF-8")]);
    outcome.exits(1);
    for words in [
        "bad.toml:2:10: machine.memory",
        "bad.toml:5:2: unknown section nonsense",
    ] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    fs::write(&bad, "[guest]\nkernel = \"/no/such\"\n").expect("write");
    let outcome = kata(w, &["config", "check", bad.to_str().expect("UTF-8")]);
    outcome
        .exits(1)
        .refuses(&["bad.toml:2:1: guest.kernel: /no/such: no such file"]);
    kata(w, &["config", "check", "/no/such.toml"])
        .exits(1)
        .refuses(&["/no/such.toml"]);
}

fn imported(w: &World) {
    let theirs = w.dir().join("configuration.toml");
    let text = "[hypervisor.qemu]\npath = \"/bin/true\"\ndefault_vcpus = 1\ndefault_memory = 384\nimage = \"/x.img\"\nodd = 1\n\
                [factory]\nenable_template = false\n[runtime]\nhypervisor_name = \"qemu\"\n";
    fs::write(&theirs, text).expect("write");
    let theirs = theirs.to_str().expect("UTF-8");
    let outcome = kata(w, &["config", "import", theirs]);
    outcome.exits(0);
    assert_eq!(
        outcome.stderr.lines().count(),
        7,
        "a line for each key: {}",
        outcome.stderr
    );
    for words in [
        "configuration.toml:4:1: hypervisor.qemu.default_memory: renamed: machine.memory = 384",
        "hypervisor.qemu.path: taken",
        "hypervisor.qemu.image: meaningless here",
        "hypervisor.qemu.odd: unknown",
        "factory.enable_template: renamed: template.enable = false",
    ] {
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
    let (ours, report) = (w.dir().join("kata.toml"), w.dir().join("report"));
    let (ours, report) = (ours.to_str().expect("UTF-8"), report.to_str().expect("UTF-8"));
    let words = ["config", "import", theirs, "--output", ours, "--report", report];
    let quiet = kata(w, &words);
    assert!(
        quiet.exits(0).stderr.is_empty() && quiet.stdout.is_empty(),
        "{}",
        quiet.stderr
    );
    assert_eq!(fs::read_to_string(ours).expect("written"), outcome.text() + "\n");
    assert_eq!(fs::read_to_string(report).expect("written"), outcome.stderr);
    kata(w, &words).refuses(&["kata.toml", "exists"]);
    kata(w, &["config", "check", ours]).exits(0);
    let shown = kata(w, &["config", "show", "machine.memory"]).exits(0).text();
    assert!(shown.contains("memory = 384"), "{shown}");
    kata(w, &["config", "import", "/no/such"]).refuses(&["/no/such"]);
}
