// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The steps. Each makes what it needs before its clock starts, and the same bytes and names each time.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const MIB: usize = 1 << 20;
/// The file for sequential and random access.
const BIG: usize = 128;
const PAGE: usize = 4096;
/// Random accesses.
const JUMPS: u64 = 2000;
/// Files of the flat directory.
const MANY: usize = 1000;
/// Directories and files in each of the unpacked tree.
const TREE: (usize, usize) = (40, 20);
/// Objects of the repository.
const OBJECTS: usize = 500;
/// Packages.
const PACKAGES: usize = 40;

/// `step milliseconds` lines.
struct Told {
    lines: String,
    since: Instant,
}

impl Told {
    fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Ends the step, and begins the next one.
    fn end(&mut self, step: &str) {
        let ms = self.since.elapsed().as_secs_f64() * 1e3;
        // Writing to a string does not fail.
        let _ = writeln!(self.lines, "{step} {ms:.3}");
        self.begin();
    }
}

/// Does all of it in `dir`, which is empty before and afterwards.
pub fn all(dir: &Path) -> io::Result<String> {
    let mut told = Told {
        lines: String::new(),
        since: Instant::now(),
    };
    big(&dir.join("big"), &mut told)?;
    many(&dir.join("many"), &mut told)?;
    tree(&dir.join("tree"), &mut told)?;
    repository(&dir.join("repository"), &mut told)?;
    packages(&dir.join("packages"), &mut told)?;
    Ok(told.lines)
}

/// Makes the guest, or the host, forget the pages of a file that is on disk.
fn forget(file: &File) -> io::Result<()> {
    file.sync_all()?;
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Sequential and random access to one file.
fn big(path: &Path, told: &mut Told) -> io::Result<()> {
    let block = vec![b'k'; MIB];
    told.begin();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    for _ in 0..BIG {
        (&file).write_all(&block)?;
    }
    file.sync_all()?;
    told.end("write");

    forget(&file)?;
    drop(file);
    let mut block = block;
    told.begin();
    let mut file = File::open(path)?;
    for _ in 0..BIG {
        file.read_exact(&mut block)?;
    }
    told.end("read");

    let file = OpenOptions::new().read(true).write(true).open(path)?;
    forget(&file)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    let mut page = [0; PAGE];
    let places = (BIG * MIB / PAGE) as u64;
    // A full-period generator (Knuth's MMIX): the same places each time.
    let mut state = 1_u64;
    let mut place = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % places * PAGE as u64
    };
    told.begin();
    for _ in 0..JUMPS {
        file.read_exact_at(&mut page, place())?;
    }
    told.end("random-read");
    for _ in 0..JUMPS {
        file.write_all_at(&page, place())?;
    }
    file.sync_all()?;
    told.end("random-write");
    drop(file);
    fs::remove_file(path)
}

/// Empty files of one directory.
fn many(dir: &Path, told: &mut Told) -> io::Result<()> {
    fs::create_dir(dir)?;
    let paths: Vec<PathBuf> = (0..MANY).map(|n| dir.join(format!("file-{n}"))).collect();
    told.begin();
    for path in &paths {
        File::create_new(path)?;
    }
    told.end("create");
    // Longer than the guest may believe what it knows of a file.
    std::thread::sleep(Duration::from_millis(1500));
    told.begin();
    for path in &paths {
        fs::symlink_metadata(path)?;
    }
    told.end("stat");
    let listed = fs::read_dir(dir)?.count();
    told.end("list");
    if listed != MANY {
        return Err(io::Error::other(format!("{listed} files of {MANY} are listed")));
    }
    told.begin();
    for path in &paths {
        fs::remove_file(path)?;
    }
    told.end("unlink");
    fs::remove_dir(dir)
}

/// As `tar` unpacks: directories, files with mode and time, links; then all of it is read, and removed.
fn tree(dir: &Path, told: &mut Told) -> io::Result<()> {
    let content = vec![b't'; 16 << 10];
    told.begin();
    for d in 0..TREE.0 {
        let sub = dir.join(format!("dir-{}/sub-{d}", d % 5));
        fs::create_dir_all(&sub)?;
        for f in 0..TREE.1 {
            let path = sub.join(format!("file-{f}.c"));
            let mut file = File::create_new(&path)?;
            file.write_all(content.get(..1024 * (1 + f % 16)).unwrap_or_default())?;
            file.set_permissions(Permissions::from_mode(0o640))?;
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))?;
        }
        symlink("file-0.c", sub.join("link"))?;
    }
    told.end("unpack");
    walk(dir, &mut |path| fs::read(path).map(drop))?;
    told.end("pack");
    fs::remove_dir_all(dir)?;
    told.end("remove-tree");
    Ok(())
}

fn walk(dir: &Path, at: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), at)?;
        } else if kind.is_file() {
            at(&entry.path())?;
        }
    }
    Ok(())
}

/// As a version control system stores objects (temporary name, link, unlink, read-only) and looks for changes.
fn repository(dir: &Path, told: &mut Told) -> io::Result<()> {
    let objects = dir.join("objects");
    fs::create_dir_all(&objects)?;
    told.begin();
    for n in 0..OBJECTS {
        let fan = objects.join(format!("{:02x}", n % 256));
        match fs::create_dir(&fan) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let fresh = fan.join("tmp_obj");
        let mut file = File::create_new(&fresh)?;
        file.write_all(&[b'o'; 300])?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        drop(file);
        fs::hard_link(&fresh, fan.join(format!("{n:038x}")))?;
        fs::remove_file(&fresh)?;
        if n % 50 == 0 {
            fs::write(dir.join("index.lock"), [b'i'; 4096])?;
            fs::rename(dir.join("index.lock"), dir.join("index"))?;
        }
    }
    told.end("commit");
    std::thread::sleep(Duration::from_millis(1500));
    told.begin();
    walk(dir, &mut |path| fs::symlink_metadata(path).map(drop))?;
    told.end("status");
    fs::remove_dir_all(dir)
}

/// As a package manager installs small files in nested directories, and a program looks for them where most are not.
fn packages(dir: &Path, told: &mut Told) -> io::Result<()> {
    let place = |n: usize| {
        let outer = dir.join(format!("node_modules/package-{}", n / 2));
        if n.is_multiple_of(2) {
            outer
        } else {
            outer.join(format!("node_modules/package-{n}"))
        }
    };
    told.begin();
    for n in 0..PACKAGES {
        let lib = place(n).join("lib/deep");
        fs::create_dir_all(&lib)?;
        fs::write(place(n).join("package.json"), [b'{'; 800])?;
        for f in 0..12 {
            fs::write(lib.join(format!("module-{f}.js")), [b'j'; 1500])?;
        }
    }
    told.end("install");
    for n in 0..PACKAGES {
        for f in 0..12 {
            for missing in ["", ".json", ".node", "/index.js"] {
                let path = place(n).join(format!("lib/module-{f}{missing}"));
                if fs::symlink_metadata(&path).is_ok() {
                    return Err(io::Error::other(format!("{} should not be there", path.display())));
                }
            }
            fs::read(place(n).join(format!("lib/deep/module-{f}.js")))?;
        }
    }
    told.end("resolve");
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_once_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let told = all(dir.path()).unwrap();
        let steps: Vec<&str> = told.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(steps.len(), 15, "{told}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
