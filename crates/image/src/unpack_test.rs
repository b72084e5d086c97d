// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Tests of unpacking: whiteouts, links, attributes, and entries that try to leave the directory.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use tar::{Builder, EntryType, Header};

use super::*;
use crate::stack::is_whiteout;

/// Whiteouts and marks are root's business.
fn as_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(Builder::new(Vec::new()))
    }

    /// `name` as it is, also when the tar crate would not take it.
    fn add(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Archive {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(7);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn dir(self, name: &str) -> Archive {
        self.add(EntryType::Directory, name, "", 0o755, b"")
    }

    fn file(self, name: &str, data: &[u8]) -> Archive {
        self.add(EntryType::Regular, name, "", 0o644, data)
    }

    fn symlink(self, name: &str, to: &str) -> Archive {
        self.add(EntryType::Symlink, name, to, 0o777, b"")
    }

    fn link(self, name: &str, to: &str) -> Archive {
        self.add(EntryType::Link, name, to, 0o644, b"")
    }
}

struct Layers(tempfile::TempDir, Vec<PathBuf>);

impl Layers {
    fn new() -> Layers {
        Layers(tempfile::tempdir().unwrap(), Vec::new())
    }

    fn add(&mut self, archive: Archive) -> Result<PathBuf> {
        let target = self.0.path().join(self.1.len().to_string());
        fs::create_dir(&target).unwrap();
        let bytes = archive.0.into_inner().unwrap();
        if let Err(e) = unpack(&bytes[..], &target, &self.1, &Cancel::default()) {
            fs::remove_dir_all(&target).unwrap();
            return Err(e);
        }
        self.1.insert(0, target.clone());
        Ok(target)
    }

    fn read(&self, path: &str) -> Option<String> {
        let bytes = Stack::open(&self.1).unwrap().read(Path::new(path), 1 << 20).unwrap();
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn outside(&self) -> PathBuf {
        let path = self.0.path().join("outside");
        fs::create_dir(&path).unwrap();
        path
    }
}

#[test]
fn a_layer_keeps_kinds_owners_modes_and_times() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    let mut archive = Archive::new()
        .add(EntryType::Directory, "./", "", 0o750, b"")
        .dir("bin")
        .add(EntryType::Regular, "bin/su", "", 0o4755, b"#!")
        .link("bin/su2", "bin/su")
        .symlink("bin/sh", "/bin/su")
        .add(EntryType::Char, "null", "", 0o666, b"")
        .add(EntryType::Fifo, "fifo", "", 0o600, b"")
        .file("deep/down/file", b"x");
    archive
        .0
        .append_pax_extensions([
            ("SCHILY.xattr.user.a", &b"b\n"[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/"),
        ])
        .unwrap();
    let root = layers.add(archive.file("sparse", &vec![0; 1 << 20])).unwrap();
    let at = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(at("").mode() & 0o7777, 0o750);
    assert_eq!(
        (at("bin").uid(), at("bin").gid(), at("bin").mtime()),
        (1000, 7, 1_700_000_000)
    );
    assert_eq!(at("bin/su").mode() & 0o7777, 0o4755);
    assert_eq!((at("bin/su").nlink(), at("bin/su").ino()), (2, at("bin/su2").ino()));
    assert_eq!(at("bin/sh").uid(), 1000);
    assert_eq!(at("bin/sh").mtime(), 1_700_000_000);
    assert!(at("null").file_type().is_char_device() && at("null").rdev() == makedev(1, 3));
    assert!(at("fifo").file_type().is_fifo());
    assert_eq!((at("deep").mode() & 0o7777, at("deep").uid()), (0o755, 0));
    assert_eq!(
        xattr::get(root.join("sparse"), "user.a").unwrap().as_deref(),
        Some(&b"b\n"[..])
    );
    assert_eq!(
        xattr::get(root.join("sparse"), "trusted.overlay.redirect").unwrap(),
        None
    );
    assert_eq!((at("sparse").len(), at("sparse").blocks()), (1 << 20, 0));
}

#[test]
fn whiteouts_hide_lower_files_only() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    let base = Archive::new()
        .dir("d")
        .file("d/x", b"low")
        .file("d/y", b"low")
        .dir("e")
        .file("e/x", b"low")
        .file("f", b"low");
    layers.add(base).unwrap();
    let upper = Archive::new()
        .file("d/new", b"high")
        .file("d/.wh..wh..opq", b"")
        .file("e/x", b"high")
        .file("e/.wh.x", b"")
        .file(".wh.f", b"")
        .file(".wh.never", b"")
        .file("no/.wh.such", b"")
        .file(".wh..wh.plnk", b"");
    let root = layers.add(upper).unwrap();
    assert_eq!(xattr::get(root.join("d"), OPAQUE).unwrap().as_deref(), Some(&b"y"[..]));
    assert_eq!(layers.read("d/new").as_deref(), Some("high"));
    assert_eq!(layers.read("d/x"), None);
    assert_eq!(layers.read("e/x").as_deref(), Some("high"));
    assert_eq!(layers.read("f"), None);
    let stat = stat(&File::open(&root).unwrap().into(), OsStr::new("f"))
        .unwrap()
        .unwrap();
    assert!(is_whiteout(&stat));
    assert!(!root.join("never").exists() && !root.join("no").exists());
    // What was hidden can come back, without its old content.
    layers.add(Archive::new().file("f/inside", b"new")).unwrap();
    assert_eq!(layers.read("f/inside").as_deref(), Some("new"));
}

#[test]
fn an_opaque_root_hides_everything_below() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    layers
        .add(Archive::new().file("a/x", b"1").file("b", b"1").file("c", b"1"))
        .unwrap();
    layers
        .add(
            Archive::new()
                .file("a/y", b"2")
                .file("b", b"2")
                .file(".wh..wh..opq", b""),
        )
        .unwrap();
    let read = |path| layers.read(path);
    assert_eq!((read("a/x"), read("c")), (None, None));
    assert_eq!((read("a/y").as_deref(), read("b").as_deref()), (Some("2"), Some("2")));
}

#[test]
fn parents_of_lower_layers_keep_their_attributes_and_symlinks() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    let base = Archive::new()
        .add(EntryType::Directory, "usr/lib", "", 0o2711, b"")
        .file("usr/lib/old", b"old")
        .symlink("lib", "usr/lib");
    layers.add(base).unwrap();
    let root = layers.add(Archive::new().file("lib/new", b"new")).unwrap();
    let dir = fs::symlink_metadata(root.join("usr/lib")).unwrap();
    assert_eq!(
        (dir.mode() & 0o7777, dir.uid(), dir.mtime()),
        (0o2711, 1000, 1_700_000_000)
    );
    assert!(fs::symlink_metadata(root.join("lib")).is_err());
    assert_eq!(layers.read("lib/old").as_deref(), Some("old"));
    assert_eq!(layers.read("usr/lib/new").as_deref(), Some("new"));
}

#[test]
fn hard_links_reach_lower_layers() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    layers
        .add(
            Archive::new()
                .add(EntryType::Regular, "d/a", "", 0o4711, b"data")
                .symlink("s", "d/a"),
        )
        .unwrap();
    let root = layers
        .add(
            Archive::new()
                .link("b", "/d/a")
                .link("t", "s")
                .link("c", "b")
                .link("b", "b"),
        )
        .unwrap();
    let at = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((at("b").nlink(), at("b").mode() & 0o7777), (3, 0o4711));
    assert_eq!(at("b").ino(), at("d/a").ino());
    assert_eq!(layers.read("c").as_deref(), Some("data"));
    assert!(at("t").file_type().is_symlink());
    for bad in ["missing", "../x", "d"] {
        let error = layers.add(Archive::new().link("l", bad)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{bad}");
    }
}

#[test]
fn one_name_can_change_its_kind() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    layers
        .add(Archive::new().file("a/x", b"1").file("b", b"1").file("c/x", b"1"))
        .unwrap();
    let upper = Archive::new()
        .file("a", b"now a file")
        .file("b/x", b"not reached, b is a file");
    assert_eq!(layers.add(upper).unwrap_err().kind(), Kind::Invalid);
    let upper = Archive::new()
        .dir("a/sub")
        .file("a", b"now a file")
        .dir("b")
        .file("b/x", b"2")
        .symlink("c", "b")
        .symlink("e", "b")
        .file("e", b"twice")
        .file("e", b"thrice")
        .file("g", b"")
        .dir("g");
    let root = layers.0.path().join("again");
    fs::create_dir(&root).unwrap();
    let bytes = upper.0.into_inner().unwrap();
    unpack(&bytes[..], &root, &layers.1, &Cancel::default()).unwrap();
    layers.1.insert(0, root.clone());
    assert_eq!(layers.read("a").as_deref(), Some("now a file"));
    assert_eq!(layers.read("c/x").as_deref(), Some("2"));
    assert_eq!(layers.read("e").as_deref(), Some("thrice"));
    assert!(root.join("g").is_dir());
}

#[test]
fn nothing_is_written_outside() {
    if !as_root() {
        return;
    }
    let mut layers = Layers::new();
    let outside = layers.outside();
    let to = outside.to_str().unwrap();
    for bad in ["../x", "a/../../x", "/..", ".wh...", "a/.wh..."] {
        let error = layers.add(
            Archive::new()
                .dir("a")
                .file("a/.wh.keep", b"")
                .file("a/f", b"")
                .file(bad, b"x"),
        );
        // Names with `..` are refused whole, and `.wh.` + `..` hides no name.
        assert_eq!(error.unwrap_err().kind(), Kind::Invalid, "{bad}");
    }
    // Through symlinks: they are resolved inside the layer.
    let inside = to.trim_start_matches('/');
    let root = layers.add(
        Archive::new()
            .symlink("l", to)
            .file("l/f", b"x")
            .symlink("up", "../../..")
            .file("up/g", b"x"),
    );
    let root = root.unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(root.join(inside).join("f").exists() && root.join("g").exists());
    // Over a symlink that stands in a lower layer.
    symlink(to, root.join("m")).unwrap();
    layers.add(Archive::new().file("m/f", b"x").file("m", b"y")).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn cancelled_work_stops() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.set();
    let bytes = Archive::new().file("a", b"").0.into_inner().unwrap();
    let error = unpack(&bytes[..], dir.path(), &[], &cancel).unwrap_err();
    if as_root() {
        assert_eq!(error.kind(), Kind::Gone);
    }
}
