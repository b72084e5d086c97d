// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Kernel modules, in the order of a list in the image, at boot or when they are needed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use base::{Context, Result};
use nix::kmod::{ModuleInitFlags, finit_module};

/// Paths of modules, one per line, each behind what it depends on.
const LIST: &str = "/etc/kata/modules";
/// Those that are loaded when they are needed, likewise; an empty line is behind each that somebody asks for.
const LATER: &str = "/etc/kata/modules.later";
/// A driver whose devices wait until somebody wants them: most spare ones are never used.
const PATIENT: &str = "virtio_net";
const AUTOPROBE: &str = "/sys/bus/virtio/drivers_autoprobe";

/// Loads all of them; their files, which take memory, go. Errors: with the path of the one that does not load.
pub fn load() -> Result<()> {
    let list = fs::read_to_string(LIST).attempt(|| format!("read {LIST}"))?;
    paths(&list).try_for_each(|path| {
        load_one(path)?;
        forget(path);
        Ok(())
    })
}

/// Nobody reads it again.
fn forget(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        log::debug!("remove {}: {e}", path.display());
    }
}

/// Loads the modules `names` of those that wait, with what they depend on. What the image does not have may be built in: whoever
/// needs it finds out. Errors: with the path of the one that does not load.
pub fn load_later(names: &[&str]) -> Result<()> {
    let list = match fs::read_to_string(LATER) {
        // An image of an earlier version.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.attempt(|| format!("read {LATER}"))?,
    };
    asked(&list, names).try_for_each(load_now)
}

/// The parts of the list that end with one of `names`.
fn asked<'a>(list: &'a str, names: &[&str]) -> impl Iterator<Item = &'a Path> {
    let is_one = |path: Option<&Path>| {
        path.and_then(Path::file_stem)
            .is_some_and(|stem| names.iter().any(|name| stem == *name))
    };
    list.split("\n\n")
        .filter(move |part| is_one(paths(part).last()))
        .flat_map(paths)
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
    // Memory for later is cut into pieces as it is needed.
    let words = if path.ends_with("dax_hmem.ko") {
        c"region_idle=1"
    } else {
        c""
    };
    match finit_module(&file, words, ModuleInitFlags::empty()) {
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
        let list = "/lib/dep.ko\n/lib/blk.ko\n\n/lib/mem.ko\n\n/lib/dep.ko\n/lib/fs.ko\n\n";
        let some = |names: &[&str]| asked(list, names).count();
        assert_eq!((some(&["blk"]), some(&["blk", "mem"]), some(&["dep"])), (2, 3, 0));
        let fs: Vec<_> = asked(list, &["fs"]).collect();
        assert_eq!(fs, ["/lib/dep.ko", "/lib/fs.ko"].map(Path::new));
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
