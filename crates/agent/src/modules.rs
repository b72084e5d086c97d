// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Kernel modules, in the order of a list in the image. It does not know which ones there are.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use base::{Context, Result};
use nix::kmod::{ModuleInitFlags, finit_module};

/// Paths of modules, one per line, each behind what it depends on.
const LIST: &str = "/etc/kata/modules";
/// A driver whose devices wait until somebody wants them: most spare ones are never used.
const PATIENT: &str = "virtio_net";
const AUTOPROBE: &str = "/sys/bus/virtio/drivers_autoprobe";

/// Loads all of them. Errors: with the path of the one that does not load.
pub fn load() -> Result<()> {
    let list = fs::read_to_string(LIST).attempt(|| format!("read {LIST}"))?;
    paths(&list).try_for_each(load_one)
}

fn paths(list: &str) -> impl Iterator<Item = &Path> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(Path::new)
}

fn load_one(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !name.starts_with(PATIENT) {
        return load_now(path);
    }
    let probe = |on: &str| fs::write(AUTOPROBE, on).attempt(|| format!("write {AUTOPROBE}"));
    probe("0")?;
    load_now(path)?;
    probe("1")
}

fn load_now(path: &Path) -> Result<()> {
    let what = || format!("load module {}", path.display());
    let file = File::open(path).attempt(what)?;
    let start = Instant::now();
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // Built into the kernel after all.
        Ok(()) | Err(nix::Error::EEXIST) => {}
        other => other.attempt(what)?,
    }
    log::debug!(
        "{} took {:.1} ms",
        path.display(),
        start.elapsed().as_secs_f64() * 1000.0
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_taken_in_its_order() {
        let all: Vec<_> = paths("/lib/a.ko\n\n /lib/b.ko \n/lib/c.ko").collect();
        assert_eq!(all, ["/lib/a.ko", "/lib/b.ko", "/lib/c.ko"].map(Path::new));
        assert_eq!(paths("").count(), 0);
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = load_one(Path::new("/no/such/virtiofs.ko")).unwrap_err();
        assert!(
            error.chain().starts_with("load module /no/such/virtiofs.ko: "),
            "{}",
            error.chain()
        );
    }
}
