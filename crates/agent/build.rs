// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Links the static agent to a fixed address. Its helper is executed for each process of a container: there is nothing to
//! relocate then, and an emulated machine finds the code translated that it ran before.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        // The last of these words counts, and rustc's own is -static-pie.
        for word in ["-no-pie", "-static"] {
            println!("cargo::rustc-link-arg-bins={word}");
        }
    }
}
