// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Runs `make` in a kernel tree so that the result depends on nothing but the tree, the configuration and the compiler: with
//! an environment of its own, beside the tree, and with nobody left running behind it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::build::Progress;

/// What a failure shows of the log.
const LAST_LINES: usize = 20;
/// How long the processes of a build that was stopped may take to go.
const GRACE: Duration = Duration::from_secs(5);

/// A kernel tree and the directory that takes what is made of it.
pub(crate) struct Make<'a> {
    pub(crate) tree: &'a Path,
    pub(crate) out: &'a Path,
    /// How many things are compiled at a time.
    pub(crate) jobs: usize,
    /// The time that the kernel says it was built at, in seconds since 1970.
    pub(crate) epoch: i64,
    pub(crate) progress: &'a dyn Progress,
}

impl Make<'_> {
    /// Makes targets; `step` is what it is for, in words. Errors carry the step and the last lines that were printed.
    pub(crate) fn run(&self, step: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command()?;
        command.args(arguments);
        self.watch(step, command)
    }

    /// Runs another program over what was made.
    pub(crate) fn tool(&self, step: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.out);
        self.watch(step, command)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new("make");
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("KBUILD_BUILD_VERSION", "1")]);
        command.envs([("KBUILD_BUILD_USER", "kata"), ("KBUILD_BUILD_HOST", "kata")]);
        command.env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        command.env("KBUILD_BUILD_TIMESTAMP", date(self.epoch)?);
        command.arg("--silent").arg("--directory").arg(self.tree);
        command.arg(format!("O={}", self.out.display()));
        command.arg("ARCH=x86_64").arg(format!("--jobs={}", self.jobs));
        Ok(command)
    }

    fn watch(&self, step: &str, mut command: Command) -> Result<()> {
        self.progress.step(step)?;
        let path = self.out.join(".log");
        let log = File::create(&path).attempt(|| format!("write {}", path.display()))?;
        let again = log.try_clone().attempt(|| format!("write {}", path.display()))?;
        // A group of its own: all of it can be ended, and an interrupt from the terminal comes by us.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(again);
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = command.spawn();
        let mut group = Group(spawned.attempt(|| format!("{step}: start {program}"))?);
        let mut counted = Instant::now();
        let status = loop {
            if let Some(status) = group.0.try_wait().attempt(|| step.to_owned())? {
                break status;
            }
            self.progress.check()?;
            if counted.elapsed() > Duration::from_secs(5) {
                self.progress.detail(&format!("{step}: {} files", objects(self.out)));
                counted = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            return Ok(());
        }
        let last = last_lines(&path).unwrap_or_default();
        Err(Error::new(
            Kind::Io,
            format!("{step}: {program} failed ({status}); it said last:\n{last}"),
        ))
    }
}

/// A process with all its descendants, which do not outlive their owner.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let Ok(id) = i32::try_from(self.0.id()) else { return };
        let group = Pid::from_raw(id);
        // Fails only if all of it has ended already.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
        // Others than the first are not ours to wait for; they must not write any more when the directory goes.
        let begin = Instant::now();
        while killpg(group, None).is_ok() && begin.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// As `date` writes it, which is what `uname -v` shows of other kernels.
fn date(epoch: i64) -> Result<String> {
    let format = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] UTC [year]"
    );
    let time = OffsetDateTime::from_unix_timestamp(epoch).context(Kind::Invalid, || format!("use the time {epoch}"))?;
    time.format(format).context(Kind::Bug, || "write the time".into())
}

/// How much was compiled so far.
fn objects(dir: &Path) -> usize {
    let mut count = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                _ => count += usize::from(path.extension().is_some_and(|extension| extension == "o")),
            }
        }
    }
    count
}

fn last_lines(path: &Path) -> std::io::Result<String> {
    /// More than the last lines have.
    const TAIL: u64 = 16 << 10;
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut lines = Vec::new();
    for line in BufReader::new(file.take(TAIL)).split(b'\n') {
        lines.push(format!("  {}", String::from_utf8_lossy(&line?)));
    }
    if lines.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(lines.split_off(lines.len().saturating_sub(LAST_LINES)).join("\n"))
}
