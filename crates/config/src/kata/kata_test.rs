// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Files as Kata's two runtimes have them, written for this test.

use super::*;
use crate::document::Document;

const RUST: &str = r#"
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
valid_hypervisor_paths = ["/opt/kata/bin/qemu-system-x86_64"]
kernel = "/opt/kata/share/kata-containers/vmlinux.container"
kernel_params = "agent.log=debug mitigations=off systemd.unit=x.target"
default_vcpus = 1.5
default_maxvcpus = 0
default_memory = 4096
default_maxmemory = 16384
enable_annotations = ["enable_iommu", "default_.*"]
block_device_driver = "virtio-blk-pci"
rootles = true

[hypervisor.qemu.factory]
enable_template = false
vm_cache_number = 3

[hypervisor.clh]
path = "/opt/kata/bin/cloud-hypervisor"
default_memory = 512

[agent.kata]
create_container_timeout = 90
reconnect_timeout_ms = 3000

[agent.kata.mem_agent]
enable = true
memcg_swap = false

[runtime]
hypervisor_name = "qemu"
agent_name = "kata"
log_level = "debug"
use_passfd_io = true
"#;

const GO: &str = r#"
[hypervisor.clh]
path = "/usr/bin/cloud-hypervisor"
default_vcpus = -1
default_memory = 1024
disable_guest_selinux = true
net_rate_limiter_bw_max_rate = 0

[factory]
enable_template = true
template_path = "/run/vc/vm/template"
vm_cache_endpoint = "/var/run/kata-containers/cache.sock"

[agent.kata]
dial_timeout = 45

[runtime]
enable_debug = true
internetworking_model = "tcfilter"
sandbox_cgroup_only = false
hypervisor_name = "cloud-hypervisor"

[proxy.kata]
path = "/usr/libexec/kata-proxy"
"#;

fn import(text: &str) -> Import {
    Import::read("k.toml", text, Facts { processors: 6 }).unwrap()
}

fn verdict<'a>(import: &'a Import, key: &str) -> (Verdict, &'a str) {
    let line = import.report.iter().find(|line| line.key == key);
    let line = line.unwrap_or_else(|| panic!("no line about {key}"));
    (line.verdict, line.note.as_str())
}

/// What it made is a file of ours that says `want`.
fn made(import: &Import, want: &[(&str, &str)]) {
    let document = Document::read("ours", &import.toml());
    assert!(document.faults.is_empty(), "{:?}\n{}", document.faults, import.toml());
    let mut got: Vec<(&str, String)> = document
        .entries
        .iter()
        .map(|entry| (entry.key.name, entry.item.toml()))
        .collect();
    got.sort();
    let mut want: Vec<(&str, String)> = want.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    want.sort();
    assert_eq!(got, want);
}

#[test]
fn the_rust_runtimes_file_is_translated() {
    let import = import(RUST);
    made(
        &import,
        &[
            ("hypervisor.name", r#""qemu""#),
            ("hypervisor.path", r#""/opt/kata/bin/qemu-system-x86_64""#),
            ("machine.vcpus", "2"),
            ("machine.memory", "4096"),
            ("machine.max_memory", "16384"),
            ("guest.kernel_params", r#""mitigations=off""#),
            ("guest.boot_timeout", "90"),
            ("template.enable", "false"),
            ("standby.count", "3"),
            ("log.debug", "true"),
            ("annotations.enable_annotations", r#"["enable_iommu", "default_.*"]"#),
            (
                "annotations.valid_hypervisor_paths",
                r#"["/opt/kata/bin/qemu-system-x86_64"]"#,
            ),
        ],
    );
    for (key, want, words) in [
        ("hypervisor.qemu.path", Verdict::Taken, "hypervisor.path = "),
        (
            "hypervisor.qemu.default_memory",
            Verdict::Renamed,
            "machine.memory = 4096",
        ),
        (
            "hypervisor.qemu.default_vcpus",
            Verdict::Converted,
            "machine.vcpus = 2 (rounded up)",
        ),
        (
            "hypervisor.qemu.default_maxvcpus",
            Verdict::Converted,
            "keeps its default",
        ),
        (
            "hypervisor.qemu.kernel_params",
            Verdict::Converted,
            "without agent.log=debug systemd.unit=x.target",
        ),
        ("hypervisor.qemu.kernel", Verdict::Meaningless, "kata guest build"),
        (
            "hypervisor.qemu.block_device_driver",
            Verdict::Meaningless,
            "virtio-blk",
        ),
        ("hypervisor.qemu.rootles", Verdict::Unknown, "did it mean rootless?"),
        (
            "hypervisor.qemu.factory.enable_template",
            Verdict::Renamed,
            "template.enable = false",
        ),
        (
            "hypervisor.clh.default_memory",
            Verdict::Meaningless,
            "runtime.hypervisor_name is qemu",
        ),
        (
            "agent.kata.create_container_timeout",
            Verdict::Renamed,
            "guest.boot_timeout = 90",
        ),
        ("agent.kata.mem_agent.memcg_swap", Verdict::Meaningless, "by itself"),
        ("runtime.log_level", Verdict::Converted, "log.debug = true"),
        (
            "runtime.use_passfd_io",
            Verdict::Meaningless,
            "connections of their own",
        ),
    ] {
        let (got, note) = verdict(&import, key);
        assert_eq!(got, want, "{key}: {note}");
        assert!(note.contains(words), "{key}: {note}");
    }
    let keys = RUST.lines().filter(|line| line.contains(" = ")).count();
    assert_eq!(import.report.len(), keys, "a line for each key");
}

#[test]
fn the_go_runtimes_file_is_translated() {
    let import = import(GO);
    made(
        &import,
        &[
            ("hypervisor.name", r#""auto""#),
            ("machine.vcpus", "6"),
            ("machine.memory", "1024"),
            ("template.enable", "true"),
            ("template.directory", r#""/run/vc/vm/template""#),
            ("log.debug", "true"),
        ],
    );
    for (key, want, words) in [
        (
            "hypervisor.clh.default_vcpus",
            Verdict::Converted,
            "all processors of this host",
        ),
        ("factory.template_path", Verdict::Renamed, "template.directory"),
        ("factory.vm_cache_endpoint", Verdict::Meaningless, "standby.directory"),
        ("agent.kata.dial_timeout", Verdict::Meaningless, "guest.boot_timeout"),
        (
            "runtime.hypervisor_name",
            Verdict::Converted,
            "cloud-hypervisor is not here",
        ),
        ("runtime.enable_debug", Verdict::Renamed, "log.debug = true"),
        ("proxy.kata.path", Verdict::Meaningless, "no proxy"),
    ] {
        let (got, note) = verdict(&import, key);
        assert_eq!(got, want, "{key}: {note}");
        assert!(note.contains(words), "{key}: {note}");
    }
    let keys = GO.lines().filter(|line| line.contains(" = ")).count();
    assert_eq!(import.report.len(), keys, "a line for each key");
}

#[test]
fn values_that_cannot_be_are_told_and_left_out() {
    let import = import(
        "[hypervisor.qemu]\npath = \"qemu\"\ndefault_memory = \"much\"\ndefault_vcpus = 99999\n[runtime]\nenable_debug = 1\nnosuch = 1\n[what]\nx = 1\n",
    );
    made(&import, &[]);
    for (key, words) in [
        (
            "hypervisor.qemu.path",
            "cannot be taken for hypervisor.path: \"qemu\" is not absolute",
        ),
        ("hypervisor.qemu.default_memory", "\"much\" is text"),
        ("hypervisor.qemu.default_vcpus", "more than a machine can have"),
        ("runtime.enable_debug", "it must be true or false"),
    ] {
        let (verdict, note) = verdict(&import, key);
        assert_eq!(verdict, Verdict::Meaningless);
        assert!(note.contains(words), "{key}: {note}");
    }
    assert_eq!(verdict(&import, "runtime.nosuch").0, Verdict::Unknown);
    assert_eq!(verdict(&import, "what.x").0, Verdict::Unknown);
    assert_eq!(import.report[0].to_string().split(": ").next(), Some("k.toml:2:1"));
    let error = Import::read("k.toml", "[a\n", Facts { processors: 1 }).unwrap_err();
    assert!(error.0[0].to_string().starts_with("k.toml:1:"), "{error:?}");
}
