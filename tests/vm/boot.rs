// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Guests that cannot boot: the error comes within the deadline and carries what the guest's console said last.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::{Verdict, World, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("boot::truncated_initramfs", |w| {
            let image = image();
            let whole = fs::read(image.join("initramfs.cpio")).expect("the guest image's initramfs");
            let broken = w.dir().join("initramfs.cpio");
            fs::write(&broken, &whole[..whole.len() / 2]).expect("write");
            fails(w, "initrd", &broken, &["panic"]);
        }),
        ours("boot::kernel_that_is_none", |w| {
            let broken = w.dir().join("vmlinux");
            fs::write(&broken, b"this is no kernel").expect("write");
            fails(w, "kernel", &broken, &["vmlinux"]);
        }),
        ours("boot::kernel_cut_in_half", |w| {
            let whole = fs::read(image().join("vmlinux")).expect("the guest image's kernel");
            let broken = w.dir().join("vmlinux");
            fs::write(&broken, &whole[..whole.len() / 2]).expect("write");
            fails(w, "kernel", &broken, &[]);
        }),
        ours("boot::too_little_memory", |w| {
            let mut bundle = w.bundle("c", "true");
            bundle.set(
                "/annotations",
                json!({"io.katacontainers.config.hypervisor.default_memory": "16", "io.katacontainers.config.runtime.create_container_timeout": "20"}),
            );
            let outcome = w.run_with("c", &bundle, b"");
            assert_ne!(outcome.code, 0);
            assert!(!outcome.stderr.trim().is_empty());
        }),
        ours("boot::missing_module", |w| {
            let manifest = fs::read(image().join("manifest.json")).expect("the guest image's manifest");
            let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
            if manifest["modules"].as_array().is_some_and(Vec::is_empty) {
                return Verdict::Skipped("the guest's kernel has no modules".into());
            }
            // Same length, so that the archive stays whole: the module's file, whose name ends with NUL there, has another one.
            let mut archive = fs::read(image().join("initramfs.cpio")).expect("the guest image's initramfs");
            let name = b"virtiofs.ko\0";
            let at: Vec<usize> = (0..archive.len() - name.len())
                .filter(|&at| &archive[at..at + name.len()] == name)
                .collect();
            assert!(!at.is_empty(), "the image has the module");
            archive[at[0]..at[0] + 8].copy_from_slice(b"VIRTIOFS");
            let broken = w.dir().join("initramfs.cpio");
            fs::write(&broken, archive).expect("write");
            fails(w, "initrd", &broken, &["kata-agent", "virtiofs"]);
            Verdict::Held
        }),
    ]
}

fn image() -> PathBuf {
    let store = std::env::var_os("KATA_GUEST_DIR").map_or_else(|| PathBuf::from("/var/lib/kata/guest"), PathBuf::from);
    store.join("default")
}

fn fails(w: &World, asset: &str, path: &Path, words: &[&str]) {
    w.configure(&format!(
        "annotations.valid_kernel_paths = [\"{}/*\"]\n",
        w.dir().display()
    ));
    let mut bundle = w.bundle("c", "true");
    bundle.set(
        "/annotations",
        json!({
            format!("io.katacontainers.config.hypervisor.{asset}"): path,
            "io.katacontainers.config.runtime.create_container_timeout": "20"
        }),
    );
    let outcome = w.run_with("c", &bundle, b"");
    assert_ne!(outcome.code, 0);
    for word in words {
        assert!(
            outcome.stderr.contains(word),
            "{word:?} is missing in: {}",
            outcome.stderr
        );
    }
}
