// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The keeper: from it all machines that wait are started, so that none has anything of a client. It makes one at a time, when the
//! sandbox that took the last one is up; it ends those that nobody can ask for any more. All die with it; those that were taken do
//! not.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base::log::Format;
use base::{Context, Error, Kind, Result};
use log::LevelFilter;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Wanted;
use super::pool::{self, Pool};
use crate::monitor::plan;
use crate::settings::Choice;
use crate::shim::{parse_refusal, refusal};

/// After a machine was taken: its container has started by then.
const PAUSE: Duration = Duration::from_millis(500);
/// After a failure; twice as long after the next, up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// How long machines may take to end.
const ENDING: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(5);
/// How often it is looked whether what machines are made of has changed.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps `wanted` machines until it is told to end. Whoever started it is told when they all wait for the first time, or why they
/// never will.
pub fn keep(pool: &Pool, wanted: &Wanted, ready: i32) -> Result<()> {
    let starter = UnixStream::from(base::inherited::take(ready)?);
    let done = nix::unistd::setsid().attempt(|| "start a session".into());
    let done = done.and_then(|_| {
        let lock = pool.lock(wanted.count.into())?;
        pool.sweep()?;
        let log = pool.log();
        base::log::start("standby", Some(&log), Format::Text, LevelFilter::Warn)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.attempt(|| "start the runtime".into())?;
        let mut keeper = Keeper::new(
            pool,
            wanted,
            Some(starter.try_clone().attempt(|| "duplicate a socket".into())?),
        );
        let kept = runtime.block_on(keeper.serve());
        // Their tasks end, and with these the leases.
        drop(runtime);
        keeper.end();
        drop(lock);
        kept
    });
    if let Err(e) = &done {
        let line = format!("error {}\n", refusal(e).replace('\n', " "));
        let _ = (&starter).write_all(line.as_bytes());
        log::error!("{}", e.chain());
    }
    done
}

/// A machine that is made or waits.
#[derive(Debug)]
struct Kept {
    process: Child,
    /// Reads what it says; the lease is cut with it.
    ear: JoinHandle<()>,
    ready: bool,
}

/// What a machine says: a line, or nothing any more.
type Word = (String, Option<String>);

struct Keeper<'a> {
    pool: &'a Pool,
    wanted: &'a Wanted,
    starter: Option<UnixStream>,
    kept: BTreeMap<String, Kept>,
    /// Those that were taken or have failed, by their names, until they have ended.
    gone: Vec<(String, Child)>,
    made: u64,
    failures: u32,
    next: Instant,
    words: (mpsc::UnboundedSender<Word>, mpsc::UnboundedReceiver<Word>),
}

impl<'a> Keeper<'a> {
    fn new(pool: &'a Pool, wanted: &'a Wanted, starter: Option<UnixStream>) -> Keeper<'a> {
        Keeper {
            pool,
            wanted,
            starter,
            kept: BTreeMap::new(),
            gone: Vec::new(),
            made: 0,
            failures: 0,
            next: Instant::now(),
            words: mpsc::unbounded_channel(),
        }
    }

    async fn serve(&mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
        let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
        let mut hangup = signal(SignalKind::hangup()).attempt(|| "watch for SIGHUP".into())?;
        let mut children = signal(SignalKind::child()).attempt(|| "watch for SIGCHLD".into())?;
        let mut look = Instant::now() + LOOK;
        loop {
            let making = self.kept.values().any(|kept| !kept.ready);
            let missing = self.kept.len() < usize::from(self.wanted.count) && !making;
            tokio::select! {
                () = sleep_until(self.next), if missing => {
                    if let Err(e) = self.make() {
                        self.failed(&e)?;
                    }
                }
                word = self.words.1.recv() => {
                    let Some((name, word)) = word else { return Ok(()) };
                    self.hear(&name, word.as_deref())?;
                }
                _ = children.recv() => self.reap(),
                () = sleep_until(look) => {
                    look = Instant::now() + LOOK;
                    if replaced() {
                        log::warn!("the program was replaced: start the machines anew");
                        return Ok(());
                    }
                    self.retire();
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {}
            }
        }
    }

    /// Starts one more.
    fn make(&mut self) -> Result<()> {
        self.freeze()?;
        let key = self.key()?;
        let name = pool::name(&key, self.made);
        self.made += 1;
        let what = || format!("start the monitor of {name}");
        let (ours, theirs) = UnixStream::pair().attempt(what)?;
        let theirs = OwnedFd::from(theirs);
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).attempt(what)?;
        let mut place = std::ffi::OsString::from("--standby=");
        place.push(self.pool.dir().join(&name));
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kata").arg("monitor").arg(place);
        command.arg(format!("--lease-fd={}", theirs.as_raw_fd()));
        command.args(self.wanted.size().chunks(2).map(|pair| pair.join("=")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().attempt(what)?;
        drop(theirs);
        ours.set_nonblocking(true).attempt(what)?;
        let lease = tokio::net::UnixStream::from_std(ours).attempt(what)?;
        let ear = tokio::spawn(listen(name.clone(), lease, self.words.0.clone()));
        let kept = Kept {
            process,
            ear,
            ready: false,
        };
        self.kept.insert(name, kept);
        Ok(())
    }

    /// What whoever wants one asks for now: the configuration may have changed.
    fn key(&self) -> Result<String> {
        let settings = Choice::default().load()?;
        plan::standby(&settings, self.wanted.vcpus, self.wanted.memory).map(|(_, _, key)| key)
    }

    /// The template that it begins with, unless it is there already.
    fn freeze(&self) -> Result<()> {
        let what = || "make the template of machines that wait".to_owned();
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kata").args(["guest", "template", "build"]);
        command.args(self.wanted.size());
        let made = command.stdin(Stdio::null()).output().attempt(what)?;
        if made.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&made.stderr).trim_end().to_owned();
        Err(Error::new(Kind::Gone, what()).because(why))
    }

    fn hear(&mut self, name: &str, word: Option<&str>) -> Result<()> {
        let Some(kept) = self.kept.get_mut(name) else {
            return Ok(());
        };
        match word {
            Some("ready") => {
                kept.ready = true;
                self.failures = 0;
                self.next = Instant::now();
                let all =
                    self.kept.len() >= usize::from(self.wanted.count) && self.kept.values().all(|kept| kept.ready);
                if all && let Some(mut starter) = self.starter.take() {
                    // It may have gone.
                    let _ = starter.write_all(b"ready\n");
                }
                Ok(())
            }
            Some(line) => {
                let refused = line.strip_prefix("error ").and_then(parse_refusal);
                let error = refused.unwrap_or_else(|| Error::new(Kind::Gone, format!("{name} says {line:?}")));
                self.leave(name);
                self.failed(&error)
            }
            None => {
                let ready = kept.ready;
                self.leave(name);
                if ready {
                    // It was taken, or has died: either way another one is to take its place.
                    self.next = Instant::now() + PAUSE;
                    return Ok(());
                }
                self.failed(&Error::new(Kind::Gone, format!("{name} ended while it was made")))
            }
        }
    }

    /// Errors: nobody has seen one machine yet, and whoever started us waits to hear why.
    fn failed(&mut self, error: &Error) -> Result<()> {
        if self.starter.is_some() {
            return Err(Error::new(error.kind(), "make a machine that waits").because(error.chain()));
        }
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.failures += 1;
        self.next = Instant::now() + wait;
        log::warn!(
            "make a machine that waits: {}; again in {} s",
            error.chain(),
            wait.as_secs()
        );
        Ok(())
    }

    /// Lets go of one: a machine that waits ends then, one that was taken has a lease from elsewhere.
    fn leave(&mut self, name: &str) {
        if let Some(kept) = self.kept.remove(name) {
            kept.ear.abort();
            self.gone.push((name.to_owned(), kept.process));
        }
        self.reap();
    }

    /// Ends those that nobody can ask for any more.
    fn retire(&mut self) {
        let now = self.key();
        let stale = |name: &String| !now.as_ref().is_ok_and(|key| pool::fits(name, key));
        let stale: Vec<String> = self.kept.keys().filter(|name| stale(name)).cloned().collect();
        for name in stale {
            self.leave(&name);
        }
    }

    fn reap(&mut self) {
        let pool = self.pool;
        self.gone.retain_mut(|(name, process)| {
            if matches!(process.try_wait(), Ok(None)) {
                return true;
            }
            // Of one that was killed; a sandbox has taken its directory along.
            if let Err(e) = base::file::remove_tree(&pool.dir().join(&*name)) {
                log::warn!("{}", e.chain());
            }
            false
        });
    }

    /// Waits for the end of all that wait, not of those that are being taken.
    fn end(&mut self) {
        let limit = Instant::now() + ENDING;
        for (name, mut kept) in std::mem::take(&mut self.kept) {
            while matches!(kept.process.try_wait(), Ok(None)) && self.pool.dir().join(&name).exists() {
                if Instant::now() > limit {
                    log::warn!("the monitor of {name}, process {}, does not end", kept.process.id());
                    break;
                }
                std::thread::sleep(TICK);
            }
        }
        if let Err(e) = self.pool.sweep() {
            log::warn!("{}", e.chain());
        }
    }
}

async fn listen(name: String, lease: tokio::net::UnixStream, words: mpsc::UnboundedSender<Word>) {
    let mut lines = BufReader::new(lease).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The keeper lives as long as this task.
        let _ = words.send((name.clone(), Some(line)));
    }
    let _ = words.send((name, None));
}

/// Whether another program is where ours was.
fn replaced() -> bool {
    std::fs::read_link("/proc/self/exe").is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}
