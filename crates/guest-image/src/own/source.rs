// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where a kernel's source comes from: a package of the distribution, an archive, or a directory. All of them become a
//! directory with the tree in it.

use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use sha2::{Digest, Sha256};

use crate::build::Progress;
use crate::manifest::Input;
use crate::{apt, deb, digest};

/// The package that is used when none is named. Its series is supported for years.
pub const PACKAGE: &str = "linux-source-6.12";
/// The configuration is written for these and newer: older ones name many options differently.
const OLDEST: (u64, u64) = (6, 12);

/// Where to take the source from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A package `linux-source-…`, fetched by apt: from the system's release or another one.
    Package {
        /// Its name.
        name: String,
        /// The Debian release that has it.
        suite: Option<String>,
    },
    /// A tar archive, packed or not, or a package file that holds one.
    Archive(PathBuf),
    /// A directory that holds the tree, clean.
    Directory(PathBuf),
}

/// A source that is at hand.
#[derive(Debug)]
pub(crate) enum Source {
    Archive(Input),
    Directory(Input),
}

impl Origin {
    /// What `words` mean: an existing directory, an existing file, else a package with or without `/SUITE` behind it.
    pub fn of(words: &str) -> Result<Origin> {
        let path = Path::new(words);
        let absolute = || std::path::absolute(path).attempt(|| format!("find {words}"));
        if path.is_dir() {
            return Ok(Origin::Directory(absolute()?));
        }
        if path.exists() {
            return Ok(Origin::Archive(absolute()?));
        }
        let (name, suite) = match words.split_once('/') {
            Some((name, suite)) => (name, Some(suite.to_owned())),
            None => (words, None),
        };
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if name.starts_with("linux-source-") && name.bytes().all(fits) {
            let name = name.to_owned();
            return Ok(Origin::Package { name, suite });
        }
        let rule = "neither a directory, nor a file, nor a package linux-source-VERSION[/SUITE]";
        Err(Error::new(Kind::NotFound, format!("kernel source {words:?} is {rule}")))
    }

    /// Fetches what is not at hand, and hashes it.
    pub(crate) fn fetch(&self, progress: &dyn Progress) -> Result<Source> {
        match self {
            Origin::Package { name, suite } => {
                let path = apt::fetch_source(name, suite.as_deref(), &apt::cache(), progress)?;
                Ok(Source::Archive(Input::of_file(&path)?))
            }
            Origin::Archive(path) => Ok(Source::Archive(Input::of_file(path)?)),
            Origin::Directory(path) => {
                progress.step(&format!("read {}", path.display()))?;
                Ok(Source::Directory(of_tree(path, progress)?))
            }
        }
    }
}

impl Source {
    pub(crate) fn input(&self) -> &Input {
        match self {
            Source::Archive(input) | Source::Directory(input) => input,
        }
    }

    /// The tree: an archive is unpacked below `dir`.
    pub(crate) fn tree(&self, dir: &Path, progress: &dyn Progress) -> Result<PathBuf> {
        match self {
            Source::Directory(input) => Ok(input.path.clone()),
            Source::Archive(input) => {
                let path = &input.path;
                progress.step(&format!("unpack {}", path.display()))?;
                unpack(path, dir, progress).attempt(|| format!("unpack {}", path.display()))
            }
        }
    }
}

/// When the source in `tree` was made, in seconds since 1970: the time of its Makefile. Refuses what is no kernel, or one that
/// is too old.
pub(crate) fn born(tree: &Path) -> Result<i64> {
    let path = tree.join("Makefile");
    let tried = || format!("read {}", path.display());
    let text = fs::read_to_string(&path).attempt(tried)?;
    let number = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    let (Some(version), Some(level)) = (number("VERSION"), number("PATCHLEVEL")) else {
        let reason = format!("{} is no kernel tree: its Makefile has no version", tree.display());
        return Err(Error::new(Kind::Invalid, reason));
    };
    if (version, level) < OLDEST {
        let reason = format!(
            "kernel {version}.{level} is older than {}.{}, for which the configuration is written",
            OLDEST.0, OLDEST.1
        );
        return Err(Error::new(Kind::Unsupported, reason));
    }
    Ok(fs::metadata(&path).attempt(tried)?.mtime())
}

/// Unpacks an archive below `dir`; returns its only top directory.
fn unpack(path: &Path, dir: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    fs::create_dir_all(dir).attempt(|| format!("create directory {}", dir.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.ends_with(".deb") {
        let (name, content) = within(path)?;
        extract(&name, Cursor::new(content), dir, progress)?;
    } else {
        let file = File::open(path).attempt(|| "open it".into())?;
        extract(&name, BufReader::new(file), dir, progress)?;
    }
    let mut tops = Vec::new();
    for entry in fs::read_dir(dir).attempt(|| format!("list {}", dir.display()))? {
        tops.push(entry.attempt(|| format!("list {}", dir.display()))?.path());
    }
    match <[PathBuf; 1]>::try_from(tops) {
        Ok([top]) if top.is_dir() => Ok(top),
        _ => Err(Error::new(
            Kind::Invalid,
            "it does not hold one directory with a kernel tree",
        )),
    }
}

/// The archive in a source package.
fn within(package: &Path) -> Result<(String, Vec<u8>)> {
    let is_archive = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.starts_with("usr/src") && name.contains(".tar.")
    };
    let mut found = None;
    deb::read(package, &is_archive, &mut |path, content| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found = Some((name, content));
    })?;
    found.ok_or_else(|| Error::new(Kind::Invalid, "the package has no archive in /usr/src"))
}

fn extract(name: &str, packed: impl Read + Send, dir: &Path, progress: &dyn Progress) -> Result<()> {
    let packed = BufReader::with_capacity(1 << 20, packed);
    let plain: Box<dyn Read + '_> = match name.rsplit('.').next() {
        Some("tar") => Box::new(packed),
        Some("gz" | "tgz") => Box::new(flate2::bufread::GzDecoder::new(packed)),
        Some("xz" | "txz") => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(packed)),
        Some("zst") => Box::new(zstd::Decoder::with_buffer(packed).attempt(|| "start the zstd decoder".into())?),
        _ => {
            let rule = "an archive is named .tar, .tar.gz, .tar.xz or .tar.zst";
            return Err(Error::new(Kind::Unsupported, format!("{name}: {rule}")));
        }
    };
    let mut archive = tar::Archive::new(plain);
    // The times count: the kernel says it was built when its Makefile was written.
    archive.set_preserve_mtime(true);
    for entry in archive.entries().attempt(|| "read the archive".into())? {
        progress.check()?;
        let mut entry = entry.attempt(|| "read the archive".into())?;
        let path = entry.path().map(std::borrow::Cow::into_owned).unwrap_or_default();
        // Never leaves the directory.
        let inside = entry.unpack_in(dir).attempt(|| format!("write {}", path.display()))?;
        if !inside {
            let reason = format!("{} would lie outside of the tree", path.display());
            return Err(Error::new(Kind::Invalid, reason));
        }
    }
    Ok(())
}

/// Visits all files of a tree, in an order of its own, but not what git keeps of the past.
fn walk(top: &Path, visit: &mut dyn FnMut(&Path, fs::FileType) -> Result<()>) -> Result<()> {
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        let tried = || format!("list {}", dir.display());
        let mut entries = Vec::new();
        for entry in fs::read_dir(&dir).attempt(tried)? {
            let entry = entry.attempt(tried)?;
            entries.push((entry.path(), entry.file_type().attempt(tried)?));
        }
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, kind) in entries {
            if !kind.is_dir() {
                visit(&path, kind)?;
            } else if path.file_name().is_some_and(|name| name != ".git") {
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// One hash over the names and contents of a tree.
fn of_tree(top: &Path, progress: &dyn Progress) -> Result<Input> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    walk(top, &mut |path, kind| {
        progress.check()?;
        let name = path.strip_prefix(top).unwrap_or(path);
        let content = if kind.is_symlink() {
            let target = fs::read_link(path).attempt(|| format!("read {}", path.display()))?;
            digest::of(target.as_os_str().as_bytes())
        } else {
            size += fs::metadata(path)
                .attempt(|| format!("look at {}", path.display()))?
                .size();
            digest::of_file(path)?
        };
        hasher.update(name.as_os_str().as_bytes());
        hasher.update(b"\0");
        hasher.update(content.as_bytes());
        Ok(())
    })?;
    Ok(Input {
        path: top.to_owned(),
        sha256: digest::hex(&hasher.finalize()),
        size,
    })
}

/// The texts of all files that define options.
pub(crate) fn kconfigs(tree: &Path, take: &mut dyn FnMut(&str)) -> Result<()> {
    walk(tree, &mut |path, kind| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        if kind.is_file() && name.starts_with(b"Kconfig") {
            let bytes = fs::read(path).attempt(|| format!("read {}", path.display()))?;
            take(&String::from_utf8_lossy(&bytes));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::tests::package;

    struct Quiet;

    impl Progress for Quiet {
        fn step(&self, _: &str) -> Result<()> {
            Ok(())
        }

        fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const MAKEFILE: &str = "# comment\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\n";

    #[test]
    fn words_mean_a_directory_a_file_or_a_package() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("linux.tar");
        fs::write(&file, b"").unwrap();
        let of = |path: &Path| Origin::of(path.to_str().unwrap()).unwrap();
        assert_eq!(of(dir.path()), Origin::Directory(dir.path().into()));
        assert_eq!(of(&file), Origin::Archive(file));
        let package = |name: &str, suite: Option<&str>| Origin::Package {
            name: name.into(),
            suite: suite.map(str::to_owned),
        };
        assert_eq!(Origin::of(PACKAGE).unwrap(), package(PACKAGE, None));
        let other = Origin::of("linux-source-7.2/sid").unwrap();
        assert_eq!(other, package("linux-source-7.2", Some("sid")));
        for words in ["no-such-file.tar.xz", "./linux-source-1", "linux-source-1;x", ""] {
            assert_eq!(Origin::of(words).unwrap_err().kind(), Kind::NotFound, "{words}");
        }
    }

    #[test]
    fn archives_and_packages_are_unpacked_with_their_times() {
        let dir = tempfile::tempdir().unwrap();
        let plain = tarball(&[
            ("linux-6.12/Makefile", MAKEFILE),
            ("linux-6.12/a/Kconfig", "config A\n"),
        ]);
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
        std::io::copy(&mut &plain[..], &mut xz).unwrap();
        let xz = xz.finish().unwrap();
        let deb = package("linux-source", &[("usr/src/linux-source-6.12.tar.xz", &xz)]);
        for (name, content) in [("a.tar", &plain), ("b.tar.xz", &xz), ("c.deb", &deb)] {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let source = Origin::Archive(path).fetch(&Quiet).unwrap();
            let tree = source.tree(&dir.path().join(format!("{name}-tree")), &Quiet).unwrap();
            assert_eq!(born(&tree).unwrap(), 1_700_000_000, "{name}");
            let mut options = Vec::new();
            kconfigs(&tree, &mut |text| options.push(text.to_owned())).unwrap();
            assert_eq!(options, ["config A\n"]);
        }
    }

    #[test]
    fn what_is_no_kernel_or_an_old_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        fs::write(&path, tarball(&[("a/x", ""), ("b/y", "")])).unwrap();
        let error = unpack(&path, &dir.path().join("tree"), &Quiet).unwrap_err();
        assert!(error.chain().contains("one directory"), "{}", error.chain());
        assert!(unpack(Path::new("/dev/null"), &dir.path().join("none"), &Quiet).is_err());
        fs::write(dir.path().join("Makefile"), "all:\n").unwrap();
        assert!(born(dir.path()).unwrap_err().chain().contains("no kernel tree"));
        fs::write(dir.path().join("Makefile"), MAKEFILE.replace("12", "1")).unwrap();
        let error = born(dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("6.1 is older than 6.12"), "{}", error.chain());
    }

    #[test]
    fn a_trees_hash_depends_on_names_and_contents_but_not_on_its_past() {
        let dir = tempfile::tempdir().unwrap();
        let hash = || of_tree(dir.path(), &Quiet).unwrap().sha256;
        fs::create_dir_all(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a"), "1").unwrap();
        let first = hash();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join(".git/index"), "x").unwrap();
        assert_eq!(hash(), first);
        fs::write(dir.path().join("sub/a"), "2").unwrap();
        let second = hash();
        fs::rename(dir.path().join("sub/a"), dir.path().join("sub/b")).unwrap();
        assert!(first != second && second != hash() && first != hash());
    }
}
