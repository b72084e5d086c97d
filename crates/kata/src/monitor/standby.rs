// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A monitor that is started before its sandbox is known: it makes a machine, waits with it, and becomes the monitor of whoever asks
//! first. The keeper holds the lease until then.
//!
//! ```text
//! made ──"ready"──► waits ──asked──► moves (mounts, directory, control group, network) ──► as any other monitor
//!    └── EOF of the keeper, or the machine's end: everything is taken down ──┘
//! ```

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base::file::OwnedDir;
use base::{Context, Error, Kind, Result};
use net::{Claim, Place};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use oci::Bundle;
use sandbox::passt::Passt;
use sandbox::standby::Standby;
use sandbox::{Blueprint, Share, Size, share};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Arguments;
use super::{Later, Life, group, plan, report, runtime};
use crate::berth::Home;
use crate::cgroup::Company;
use crate::settings::{self, Choice};
use crate::standby::pool::{self, ABOUT, About, DOOR};
use crate::standby::request::{Request, handle};
use crate::standby::sys::{priority, set_priority};

/// How long whoever connects may take to say what it wants.
const SPEAKING: Duration = Duration::from_secs(2);
/// As long as it is made, it lets everything else go first.
const MAKING: i32 = 19;

/// Lives in `dir`, which does not exist, until nobody needs it any more.
pub fn live(arguments: &Arguments, dir: &Path, keeper: UnixStream) -> ExitCode {
    let made = Made::new(arguments, dir);
    let asked = made.and_then(|mut made| made.wait(&keeper).map(|asked| asked.map(|asked| (made, asked))));
    let (made, asked) = match asked {
        Ok(Some(asked)) => asked,
        Ok(None) => return ExitCode::SUCCESS,
        Err(e) => {
            report(&keeper, &e);
            return ExitCode::FAILURE;
        }
    };
    let told = asked.request.lease.try_clone().map(UnixStream::from);
    match made.lead(asked, keeper) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = told.map(|lease| report(&lease, &e));
            ExitCode::FAILURE
        }
    }
}

/// Somebody wants a machine, since then.
struct Asked {
    request: Request,
    since: Instant,
}

/// All that a sandbox needs, in a place of its own. The runtime goes last: what it drives must end in it.
struct Made {
    standby: Standby,
    plan: Blueprint,
    size: Size,
    share: Share,
    dir: OwnedDir,
    claim: Claim,
    /// What its processes had before they were made to wait.
    usual: i32,
    runtime: Runtime,
}

impl Made {
    fn new(arguments: &Arguments, dir: &Path) -> Result<Made> {
        let usual = priority();
        set_priority(own()?, MAKING).attempt(|| "lower the priority".into())?;
        umask(Mode::from_bits_truncate(0o022));
        let settings = Choice::default().load()?;
        let (plan, size, key) = plan::standby(&settings, arguments.vcpus, arguments.memory_mib)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !pool::fits(&name, &key) {
            let what = format!("make the machine {name}");
            return Err(Error::new(Kind::State, what).because("what it is to be made of has changed"));
        }
        let dir = OwnedDir::create(dir)?;
        nix::unistd::setsid().attempt(|| "start a session".into())?;
        std::env::set_current_dir("/").attempt(|| "change to /".into())?;
        share::isolate()?;
        let claim = Place::Empty.enter()?;
        let share = Share::open(dir.path())?;
        let runtime = runtime()?;
        let standby = runtime.block_on(Standby::prepare(&plan, size, dir.path(), &share))?;
        Ok(Made {
            standby,
            plan,
            size,
            share,
            dir,
            claim,
            usual,
            runtime,
        })
    }

    /// `None` when nobody needs it any more. Errors: it has ended by itself.
    fn wait(&mut self, keeper: &UnixStream) -> Result<Option<Asked>> {
        let own = own()?;
        let processes = self.standby.processes();
        for process in processes.iter().chain([&own]) {
            each_thread(*process, |thread| set_priority(thread, self.usual))?;
        }
        let about = About {
            monitor: own,
            processes,
            vcpus: self.size.vcpus,
            memory_mib: self.size.memory_mib,
        };
        let about = serde_json::to_vec(&about).context(Kind::Bug, || "describe a machine".into())?;
        let files = [DOOR, ABOUT].map(|name| self.dir.path().join(name));
        let listener = base::socket::listen(&files[0])?;
        base::file::replace(&files[1], &about)?;
        let asked = self.runtime.block_on(wait(&mut self.standby, listener, keeper))?;
        if asked.is_some() {
            for path in &files {
                std::fs::remove_file(path).attempt(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(asked)
    }

    /// Moves everything to where a monitor of the caller would have made it, and is that monitor. Errors: nothing of it is left.
    fn lead(self, asked: Asked, keeper: UnixStream) -> Result<()> {
        let Made {
            mut standby,
            mut plan,
            share,
            dir,
            claim,
            runtime,
            ..
        } = self;
        let words = &asked.request.words;
        let lifted = share.lift()?;
        see_as(&asked.request)?;
        words.log().start("monitor")?;
        let (home, berth) = Home::adopt(&words.root, &words.id, dir)?;
        let share = lifted.settle(home.path())?;
        let bundle = Bundle::open(&words.bundle)?;
        let settings = settings::load(&words.selection)?;
        let wanted = settings::overrides(&settings, &bundle)?;
        plan.deadline = plan::deadline(&settings, &wanted);
        plan.measure = plan::measure(&settings.config, &wanted);
        plan.pod = plan::budget(&bundle)?;
        let company = Company {
            processes: standby.processes(),
            asked_from: Some(words.groups.clone()),
        };
        let group = group(&bundle, &words.id, words.systemd_cgroup, berth.dir(), &company)?;
        for process in company.processes.iter().chain([&own()?]) {
            let path = format!("/proc/{process}/oom_score_adj");
            std::fs::write(&path, words.oom_score.trim()).attempt(|| format!("write {path}"))?;
        }
        if let Some(wish) = &words.user_network {
            let wire = standby.wire()?;
            let _inside = runtime.enter();
            let passt = within(&asked.request.network, || Passt::start(wish, wire))?;
            plan.passt = Mutex::new(Some(passt));
        }
        let claim = match Place::of(bundle.spec())? {
            place @ Place::Prepared(_) => {
                drop(claim);
                place.enter()?
            }
            // It is one of our own, and empty so far.
            place => Claim { place, ..claim },
        };
        plan.network = Some(claim.place);
        let life = Life {
            id: words.id.clone(),
            home,
            berth,
            group,
            claim: claim.socket,
            share,
            plan,
            standby: Some(standby),
            later: Some(Later::Keeper(keeper)),
        };
        let lease = asked
            .request
            .lease
            .try_clone()
            .attempt(|| "duplicate the lease".into())?;
        let since = asked.since;
        drop(asked);
        life.lead(runtime, lease.into(), since)
    }
}

fn own() -> Result<i32> {
    i32::try_from(std::process::id()).context(Kind::Bug, || "read a pid".into())
}

/// Does `work` to each thread of a process.
fn each_thread(process: i32, work: impl Fn(i32) -> std::io::Result<()>) -> Result<()> {
    let path = format!("/proc/{process}/task");
    let what = || format!("set the priority of process {process}");
    for entry in std::fs::read_dir(path).attempt(what)? {
        let name = entry.attempt(what)?.file_name();
        if let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) {
            match work(thread) {
                // It has ended since.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.attempt(what)?,
            }
        }
    }
    Ok(())
}

/// See [`Made::wait`].
async fn wait(standby: &mut Standby, listener: UnixListener, keeper: &UnixStream) -> Result<Option<Asked>> {
    let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
    let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
    let mut hangup = signal(SignalKind::hangup()).attempt(|| "watch for SIGHUP".into())?;
    listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
    let listener = tokio::net::UnixListener::from_std(listener).attempt(|| "watch a listener".into())?;
    let watched = keeper.try_clone().attempt(|| "duplicate the lease".into())?;
    watched.set_nonblocking(true).attempt(|| "unblock the lease".into())?;
    let mut lease = tokio::net::UnixStream::from_std(watched).attempt(|| "watch the lease".into())?;
    let mut keeper = keeper;
    keeper
        .write_all(b"ready\n")
        .context(Kind::Gone, || "tell that we are ready".into())?;
    let mut word = [0];
    let settled = tokio::time::sleep(Standby::SETTLING);
    tokio::pin!(settled);
    loop {
        tokio::select! {
            arrived = listener.accept() => {
                let since = Instant::now();
                let (visitor, _) = arrived.attempt(|| "take a call".into())?;
                match hear(visitor) {
                    Ok(request) => {
                        // It wakes up while we move.
                        standby.rouse().await?;
                        return Ok(Some(Asked { request, since }));
                    }
                    // It was killed, or only wanted to see whether we are here.
                    Err(_) => continue,
                }
            }
            () = &mut settled, if !standby.asleep() => standby.sleep().await?,
            reason = standby.ended() => {
                return Err(Error::new(Kind::Gone, "the machine ended while it waited").because(reason));
            }
            _ = lease.read(&mut word) => return Ok(None),
            _ = terminate.recv() => return Ok(None),
            _ = interrupt.recv() => return Ok(None),
            _ = hangup.recv() => {}
        }
    }
}

fn hear(visitor: tokio::net::UnixStream) -> Result<Request> {
    let what = || "hear what is asked".to_owned();
    let visitor = visitor.into_std().attempt(what)?;
    visitor.set_nonblocking(false).attempt(what)?;
    visitor.set_read_timeout(Some(SPEAKING)).attempt(what)?;
    Request::receive(&visitor)
}

/// Does `work` in another network namespace.
fn within<T>(network: &OwnedFd, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let what = || "enter the caller's network namespace".to_owned();
    let own = handle("/proc/thread-self/ns/net")?;
    setns(network, CloneFlags::CLONE_NEWNET).attempt(what)?;
    let done = work();
    setns(&own, CloneFlags::CLONE_NEWNET).attempt(|| "return to our network namespace".into())?;
    done
}

/// Moves to a mount namespace that begins as the caller's.
fn see_as(request: &Request) -> Result<()> {
    let what = || "enter the caller's mount namespace".to_owned();
    // Threads that read files for us before stay behind.
    unshare(CloneFlags::CLONE_FS).attempt(what)?;
    setns(request.mounts.as_fd(), CloneFlags::CLONE_NEWNS).attempt(what)?;
    nix::unistd::fchdir(&request.root).attempt(what)?;
    nix::unistd::chroot(".").attempt(what)?;
    nix::unistd::chdir("/").attempt(what)?;
    share::isolate()
}
