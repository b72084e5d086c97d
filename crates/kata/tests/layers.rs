// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The order of crates: each may depend on crates of lower layers only, so that the trust zones stay apart. The table
//! stands in docs/design.md too.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// From the bottom; crates of one layer do not know each other, except for the pairs in [`BESIDE`].
const LAYERS: [&[&str]; 6] = [
    &["base"],
    &["api", "oci", "image", "config", "virtio", "netlink"],
    &[
        "devices",
        "vhost-user",
        "machine",
        "metrics",
        "net",
        "storage",
        "guest",
        "guest-image",
    ],
    &["vmm", "sandbox"],
    &["kata", "agent"],
    // Programs that test and measure the others from outside.
    &["vm-tests", "bench", "bench-worker", "lab"],
];

/// Who may know whom within a layer.
const BESIDE: [(&str, &str); 1] = [("bench", "vm-tests")];

/// What would be allowed by the layers, but is not: the guest's containers are made by a crate that knows no wire.
const FORBIDDEN: [(&str, &str); 2] = [("guest", "api"), ("agent", "sandbox")];

fn layer(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("crate {name} has no layer: give it one in tests/layers.rs and docs/design.md"))
}

/// Our crates, each with those of ours that it uses (in its program, its tests or its build).
fn crates() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let ours = dependencies.iter().filter(|dependency| dependency["path"].is_string());
            (
                text(&package["name"]),
                ours.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn crates_depend_on_lower_layers_only() {
    let crates = crates();
    assert!(crates.len() > 10, "the workspace's crates were not found");
    for (name, dependencies) in &crates {
        for dependency in dependencies {
            let pair = (name.as_str(), dependency.as_str());
            assert!(
                layer(dependency) < layer(name) || BESIDE.contains(&pair),
                "{name} must not depend on {dependency}"
            );
            assert!(!FORBIDDEN.contains(&pair), "{name} must not depend on {dependency}");
        }
    }
}
