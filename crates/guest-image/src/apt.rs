// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Fetches the packages of one of Debian's kernels, or its source, with apt, which checks their signatures. The system's
//! own lists are used if they know the package; otherwise, and for other suites, a state directory of our own: nothing is
//! installed, and the system's configuration does not change.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::build::Progress;

/// Debian's kernel for virtual machines.
pub(crate) const CLOUD: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
/// A release that is known to have what we ask for, where the system's own does not.
const KNOWN: &str = "trixie";
/// Where the system's apt keeps its lists; it changes with `apt-get update`.
pub(crate) const SYSTEM_LISTS: &str = "/var/lib/apt/lists";

/// apt with its state, either the system's or ours.
struct Apt<'a> {
    options: Vec<String>,
    /// Where packages go.
    dir: PathBuf,
    progress: &'a dyn Progress,
}

/// Where fetched packages are kept: `$KATA_CACHE_DIR`, or `/var/cache/kata`.
pub(crate) fn cache() -> PathBuf {
    let dir = std::env::var_os("KATA_CACHE_DIR").filter(|dir| !dir.is_empty());
    dir.map_or_else(|| "/var/cache/kata".into(), PathBuf::from)
        .join("packages")
}

/// The packages that make up the kernel on which `package` depends, in the Debian release `suite` or in the system's own
/// release. They are kept in `cache`, one kernel for each release.
pub fn fetch(package: &str, suite: Option<&str>, cache: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    if let Some(suite) = suite {
        return fetch_from_suite(package, suite, cache, progress);
    }
    let apt = Apt::open(cache.join("system"), Vec::new(), progress)?;
    if let Ok(names) = apt.kernel(package) {
        return apt.download(&names);
    }
    // It may have failed because it was interrupted.
    progress.check()?;
    let suite = own_suite(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    progress.step(&format!("apt's lists name no {package}; asking Debian {suite}"))?;
    fetch_from_suite(package, &suite, cache, progress)
}

/// The package of a kernel's source, in the Debian release `suite`, or else in the system's own release or one that is known
/// to have it. It is kept in `cache`, one source for each release.
pub fn fetch_source(package: &str, suite: Option<&str>, cache: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    let dir = |suite: &str| cache.join(suite).join("source");
    let fetched = |apt: &Apt<'_>| {
        let mut files = apt.download(&[package.to_owned()])?.into_iter();
        let none = || Error::new(Kind::NotFound, format!("apt-get fetched no {package}"));
        files.next().ok_or_else(none)
    };
    if suite.is_none() {
        let apt = Apt::open(dir("system"), Vec::new(), progress)?;
        if apt.run("apt-cache", &["show", "--no-all-versions", package]).is_ok() {
            return fetched(&apt);
        }
        progress.check()?;
        progress.step(&format!("apt's lists name no {package}; asking Debian {KNOWN}"))?;
    }
    let suite = suite.unwrap_or(KNOWN);
    let options = lists_of(suite, cache, progress)?;
    fetched(&Apt::open(dir(suite), options, progress)?)
}

/// The Debian release that an os-release file names; on anything else a release that is known to work.
fn own_suite(os_release: &str) -> String {
    let field = |name: &str| {
        let line = os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"'))
    };
    match (field("ID"), field("VERSION_CODENAME")) {
        (Some("debian"), Some(suite)) => suite.to_owned(),
        (Some("debian"), None) => "sid".to_owned(),
        _ => KNOWN.to_owned(),
    }
}

fn fetch_from_suite(package: &str, suite: &str, cache: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let options = lists_of(suite, cache, progress)?;
    let apt = Apt::open(cache.join(suite), options, progress)?;
    let names = apt.kernel(package)?;
    apt.download(&names)
}

/// Fetches the package lists of a Debian release; returns the options that let apt use them.
fn lists_of(suite: &str, cache: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    if suite.is_empty() || !suite.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
        return Err(Error::new(
            Kind::Invalid,
            format!("{suite:?} is no name of a Debian release"),
        ));
    }
    if !Path::new(KEYRING).exists() {
        let reason = format!("{KEYRING} is missing: install the package debian-archive-keyring");
        return Err(Error::new(Kind::NotFound, reason));
    }
    let state = cache.join(suite).join("apt");
    let lists = state.join("lists");
    let archives = state.join("archives");
    for dir in [&lists, &archives] {
        let dir = dir.join("partial");
        fs::create_dir_all(&dir).attempt(|| format!("create directory {}", dir.display()))?;
    }
    let sources = state.join("sources.list");
    let line = format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n");
    fs::write(&sources, line).attempt(|| format!("write {}", sources.display()))?;
    let options = vec![
        format!("Dir::Etc::SourceList={}", sources.display()),
        "Dir::Etc::SourceParts=/dev/null".into(),
        format!("Dir::State::Lists={}", lists.display()),
        format!("Dir::Cache={}", state.display()),
        "APT::Architecture=amd64".into(),
        "Acquire::Languages=none".into(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".into(),
    ];
    progress.step(&format!("fetch the package lists of Debian {suite}"))?;
    let apt = Apt::open(cache.join(suite), options, progress)?;
    apt.run("apt-get", &["-qq", "update"])?;
    Ok(apt.options)
}

impl<'a> Apt<'a> {
    fn open(dir: PathBuf, options: Vec<String>, progress: &'a dyn Progress) -> Result<Apt<'a>> {
        fs::create_dir_all(&dir).attempt(|| format!("create directory {}", dir.display()))?;
        Ok(Apt { options, dir, progress })
    }

    /// The names of the packages of the current kernel, on which `package` depends.
    fn kernel(&self, package: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut pending = vec![package.to_owned()];
        while let Some(next) = pending.pop() {
            for name in concrete(&self.run("apt-cache", &["depends", "--important", &next])?) {
                if !names.contains(&name) {
                    names.push(name.clone());
                    pending.push(name);
                }
            }
        }
        if names.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("{package} depends on no kernel")));
        }
        names.sort();
        Ok(names)
    }

    /// Downloads packages that are not there yet; others in the directory are old, and go.
    fn download(&self, names: &[String]) -> Result<Vec<PathBuf>> {
        let path = self.dir.join(".lock");
        let tried = || format!("lock {}", path.display());
        let lock = File::create(&path).attempt(tried)?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .attempt(tried)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let records = self.run("apt-cache", &[&["show", "--no-all-versions"], &names[..]].concat())?;
        let files = file_names(&records);
        if files.len() != names.len() {
            let reason = format!("apt-cache shows {} of the packages {}", files.len(), names.join(", "));
            return Err(Error::new(Kind::Unsupported, reason));
        }
        self.progress.step(&format!("fetch {}", names.join(", ")))?;
        // Those that are there already are only checked.
        self.run("apt-get", &[&["-qq", "download"][..], &names[..]].concat())?;
        let entries = fs::read_dir(&self.dir).attempt(|| format!("list {}", self.dir.display()))?;
        for old in entries.flatten().map(|entry| entry.path()) {
            let name = old.file_name().unwrap_or_default();
            if old.extension().is_some_and(|extension| extension == "deb")
                && !files.iter().any(|file| name == file.as_str())
            {
                fs::remove_file(&old).attempt(|| format!("remove {}", old.display()))?;
            }
        }
        Ok(files.iter().map(|name| self.dir.join(name)).collect())
    }

    /// Runs one of apt's programs in the package directory and returns what it prints.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let tried = || format!("run {program} {}", arguments.join(" "));
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        // The directory is root's: apt's own user could not write there.
        command.args(["-o", "APT::Sandbox::User=root"]).args(arguments);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let hint = "give files on disk (--kernel with --modules; --source)";
                return Err(Error::new(Kind::NotFound, format!("{program} is not installed: {hint}")).because(e));
            }
            other => Owned(other.attempt(tried)?),
        };
        let (out, err) = (child.0.stdout.take(), child.0.stderr.take());
        thread::scope(|scope| {
            let out = scope.spawn(|| text(out));
            let err = scope.spawn(|| text(err));
            let status = loop {
                if let Some(status) = child.0.try_wait().attempt(tried)? {
                    break status;
                }
                if let Err(e) = self.progress.check() {
                    // Its end closes the pipes, so that the readers end.
                    drop(child);
                    return Err(e);
                }
                thread::sleep(Duration::from_millis(10));
            };
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            if status.success() {
                return Ok(out);
            }
            let reason = err.lines().find(|line| line.starts_with("E:")).unwrap_or(err.trim());
            Err(Error::new(Kind::Io, format!("{}: {reason}", tried())))
        })
    }
}

/// A child that does not outlive its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read until an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The kernel packages of one version in the output of `apt-cache depends`.
fn concrete(depends: &str) -> Vec<String> {
    depends
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .filter(|name| {
            let kind = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
            kind.iter().any(|kind| {
                name.strip_prefix(kind)
                    .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
            })
        })
        .map(str::to_owned)
        .collect()
}

/// The names under which `apt-get download` saves the packages in the output of `apt-cache show`.
fn file_names(records: &str) -> Vec<String> {
    let name = |record: &str| {
        let field = |name: &str| {
            let mut lines = record.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let version = field("Version")?.replace(':', "%3a");
        Some(format!(
            "{}_{version}_{}.deb",
            field("Package")?,
            field("Architecture")?
        ))
    };
    let names = records.split("\n\n").filter_map(name);
    names
        .filter(|name| !name.contains('/') && !name.starts_with('.'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_packages_of_one_version_are_fetched() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  \
                       Depends: linux-image-7.2.13+deb14-cloud-amd64\n |Depends: dracut\n  Depends: linux-base\n";
        assert_eq!(concrete(depends), ["linux-image-7.2.13+deb14-cloud-amd64"]);
    }

    #[test]
    fn file_names_are_those_of_apt() {
        let records = "Package: a\nVersion: 1:2-3\nArchitecture: amd64\nSize: 1\n\n\
                       Package: ../b\nVersion: 1\nArchitecture: all\n\nPackage: c\n";
        assert_eq!(file_names(records), ["a_1%3a2-3_amd64.deb"]);
    }

    #[test]
    fn the_suite_is_debians_own_or_a_known_one() {
        assert_eq!(own_suite("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(own_suite("ID=debian\nPRETTY_NAME=\"x/sid\"\n"), "sid");
        assert_eq!(own_suite("ID=ubuntu\nVERSION_CODENAME=noble\n"), "trixie");
    }
}
