// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Generates the ttrpc bindings of `proto/` without protoc.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    for name in ["agent", "cri", "monitor", "runtime_options"] {
        let proto = format!("proto/{name}.proto");
        println!("cargo::rerun-if-changed={proto}");
        ttrpc_codegen::Codegen::new()
            .out_dir(&out)
            .inputs([&proto])
            .include("proto")
            .rust_protobuf()
            .customize(ttrpc_codegen::Customize {
                async_all: true,
                gen_mod: false,
                ..Default::default()
            })
            .run()?;
        // `include!` takes no inner attributes and no inner doc comments.
        strip(&out.join(format!("{name}.rs")))?;
        let service = out.join(format!("{name}_ttrpc.rs"));
        if service.exists() {
            strip(&service)?;
        }
    }
    Ok(())
}

fn strip(file: &Path) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let inner = |line: &&str| !line.starts_with("#![") && !line.starts_with("//!");
    let kept: Vec<&str> = text.lines().filter(inner).collect();
    fs::write(file, kept.join("\n"))?;
    Ok(())
}
