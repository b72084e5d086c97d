// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The initramfs: an uncompressed newc cpio archive with the agent as `/init`. Same input, same bytes.

use std::collections::BTreeMap;
use std::io::Write;

use base::{Context, Error, Kind, Result};
use cpio::newc::{Builder, trailer};

use crate::modules::Module;

/// Where the agent reads which modules to load, one path per line, in this order.
const LIST: &str = "etc/kata/modules";
/// And which it may load later.
const LATER: &str = "etc/kata/modules.later";
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What is at a path.
enum Node<'a> {
    Directory(u32),
    File(u32, &'a [u8]),
    /// Major and minor number.
    Device(u32, u32),
}

/// Writes the archive for a kernel `release` with `modules` in the order of loading, and those that are loaded when they are needed.
pub fn write(
    out: &mut dyn Write,
    agent: &[u8],
    release: &str,
    modules: &[Module],
    later: &[Vec<Module>],
) -> Result<()> {
    // With an empty line between those that are asked for one by one.
    let parts: Vec<String> = later.iter().map(|modules| list(release, modules)).collect();
    let lists = [list(release, modules), parts.join("\n")];
    let mut nodes = BTreeMap::new();
    for (path, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("etc/kata", 0o755),
        ("lib", 0o755),
        ("lib/modules", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        nodes.insert(path.to_owned(), Node::Directory(mode));
    }
    nodes.insert(format!("lib/modules/{release}"), Node::Directory(0o755));
    for module in modules.iter().chain(later.iter().flatten()) {
        nodes.insert(path(release, module), Node::File(0o644, &module.content));
    }
    nodes.insert("dev/console".into(), Node::Device(5, 1));
    nodes.insert("dev/null".into(), Node::Device(1, 3));
    for (path, list) in [LIST, LATER].into_iter().zip(&lists) {
        nodes.insert(path.into(), Node::File(0o644, list.as_bytes()));
    }
    nodes.insert("init".into(), Node::File(0o755, agent));

    for (ino, (path, node)) in (1..).zip(&nodes) {
        entry(out, ino, path, node).attempt(|| format!("write /{path} into the initramfs"))?;
    }
    trailer(out).attempt(|| "end the initramfs".into())?;
    Ok(())
}

/// The module's path in the guest, without the leading slash.
fn path(release: &str, module: &Module) -> String {
    format!("lib/modules/{release}/{}.ko", module.name)
}

fn list(release: &str, modules: &[Module]) -> String {
    modules
        .iter()
        .map(|module| format!("/{}\n", path(release, module)))
        .collect()
}

fn entry(out: &mut dyn Write, ino: u32, path: &str, node: &Node<'_>) -> Result<()> {
    let builder = Builder::new(path).ino(ino).uid(0).gid(0).mtime(0);
    let (builder, content) = match node {
        Node::Directory(mode) => (builder.nlink(2).mode(DIRECTORY | mode), &[][..]),
        Node::File(mode, content) => (builder.nlink(1).mode(FILE | mode), *content),
        Node::Device(major, minor) => {
            let builder = builder.nlink(1).mode(CHARACTER_DEVICE | 0o600);
            (builder.rdev_major(*major).rdev_minor(*minor), &[][..])
        }
    };
    let size = u32::try_from(content.len()).map_err(|_| Error::new(Kind::Invalid, "a file of 4 GiB or more"))?;
    let mut writer = builder.write(out, size);
    writer.write_all(content).attempt(|| "write the content".into())?;
    writer.finish().attempt(|| "pad the content".into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn modules() -> Vec<Module> {
        ["zeta", "alpha"]
            .map(|name| Module {
                name: name.into(),
                release: "6.1.0".into(),
                content: name.repeat(3).into_bytes(),
            })
            .into()
    }

    fn later() -> [Vec<Module>; 2] {
        let module = |name: &str| Module {
            name: name.into(),
            release: "6.1.0".into(),
            content: b"late".to_vec(),
        };
        [vec![module("beta")], vec![module("beta"), module("gamma")]]
    }

    #[test]
    fn the_archive_is_the_same_each_time_and_complete() {
        let mut one = Vec::new();
        write(&mut one, b"agent", "6.1.0", &modules(), &later()).unwrap();
        let mut two = Vec::new();
        write(&mut two, b"agent", "6.1.0", &modules(), &later()).unwrap();
        assert!(one == two);

        let mut rest = &one[..];
        let mut seen = BTreeMap::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            seen.insert(entry.name().to_owned(), (entry.mode(), content));
            rest = reader.finish().unwrap();
        }
        assert_eq!(seen["init"], (0o100_755, b"agent".to_vec()));
        assert_eq!(seen["dev/console"].0, 0o020_600);
        assert_eq!(seen["tmp"].0, 0o041_777);
        assert_eq!(
            seen["etc/kata/modules"].1,
            b"/lib/modules/6.1.0/zeta.ko\n/lib/modules/6.1.0/alpha.ko\n"
        );
        assert_eq!(
            seen["etc/kata/modules.later"].1,
            b"/lib/modules/6.1.0/beta.ko\n\n/lib/modules/6.1.0/beta.ko\n/lib/modules/6.1.0/gamma.ko\n"
        );
        assert_eq!(seen["lib/modules/6.1.0/beta.ko"].1, b"late");
        assert_eq!(seen["lib/modules/6.1.0/alpha.ko"].1, b"alphaalphaalpha");
    }
}
