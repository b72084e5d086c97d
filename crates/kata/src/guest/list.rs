// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest ls` and `kata guest inspect`.

use base::{Context, Kind, Result};
use guest_image::Store;
use guest_image::manifest::Output;

/// The size of an image, or of a kernel.
#[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
pub fn mebibytes(outputs: &[Output]) -> f64 {
    let bytes: u64 = outputs.iter().map(|output| output.size).sum();
    bytes as f64 / f64::from(1 << 20)
}

pub fn run(store: &Store, json: bool) -> Result<()> {
    let images = store.list()?;
    if json {
        let rows: Vec<serde_json::Value> = images
            .iter()
            .map(|(image, names)| {
                serde_json::json!({
                    "key": image.manifest.key,
                    "names": names,
                    "kernel": image.manifest.release,
                    "created": image.manifest.created,
                    "size": image.manifest.outputs.iter().map(|output| output.size).sum::<u64>(),
                    "path": image.dir,
                })
            })
            .collect();
        println!("{}", serde_json::Value::from(rows));
        return Ok(());
    }
    println!("{:<14} {:<12} {:<32} {:>8}  CREATED", "KEY", "NAME", "KERNEL", "MIB");
    for (image, names) in images {
        let manifest = &image.manifest;
        println!(
            "{:<14} {:<12} {:<32} {:>8.1}  {}",
            manifest.key.get(..12).unwrap_or(&manifest.key),
            names.join(","),
            manifest.release,
            mebibytes(&manifest.outputs),
            manifest.created.get(..19).unwrap_or(&manifest.created),
        );
    }
    Ok(())
}

pub fn inspect(store: &Store, name: &str, verify: bool) -> Result<()> {
    let image = store.find(name)?;
    let text = serde_json::to_string_pretty(&image.manifest).context(Kind::Bug, || "print the manifest".into())?;
    println!("{text}");
    image.check(verify)
}
