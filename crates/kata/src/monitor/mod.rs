// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata monitor`: the owner of one sandbox, started by [`crate::runtime::lease`]. One thread, its own mount namespace, the
//! containers' network namespace, no standard streams. It serves the sandbox's services on its `monitor.sock` as long as there is a
//! container or somebody makes one.
//!
//! ```text
//! container   leased ──"release"──► on its own ──deleted──► gone (the deleter removes its directory)
//!                └── EOF: the creator has died or failed ──► taken away, the directory too
//! ```

mod arguments;
mod builder;
mod leases;
pub mod plan;
mod standby;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use oci::Bundle;
use sandbox::passt::{Passt, Wire};
use sandbox::standby::Standby;
use sandbox::{Blueprint, Origin, Sandbox, Share, Spans, service, share};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::berth::{self, Berth, Home};
use crate::cgroup::{Company, Group, Place};
use crate::door::Door;
use crate::settings::Choice;
use crate::shim::refusal;
use arguments::Arguments;
use builder::Builder;
use leases::{Leases, Outcome};

/// How long clients may take to read the last answers.
const FAREWELL: Duration = Duration::from_secs(5);

/// Whether these are arguments for [`main`].
pub fn leased(args: &[OsString]) -> bool {
    args.iter()
        .any(|word| word.as_encoded_bytes().starts_with(b"--lease-fd="))
}

/// `args` without the program's name and the role's word.
pub fn main(args: &[OsString]) -> ExitCode {
    let origin = Instant::now();
    let (arguments, lease) = match Arguments::parse(args).and_then(|arguments| {
        let lease = arguments.lease()?;
        Ok((arguments, lease))
    }) {
        Ok(begun) => begun,
        Err(e) => {
            eprintln!("kata monitor: {}", e.chain());
            return ExitCode::FAILURE;
        }
    };
    if let Some(dir) = &arguments.standby {
        return standby::live(&arguments, dir, lease);
    }
    let told = lease.try_clone();
    let lived = arguments.log.start("monitor");
    match lived.and_then(|()| live(&arguments, lease, origin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = told.map(|lease| report(&lease, &e));
            ExitCode::FAILURE
        }
    }
}

/// Whoever holds the lease tells it, if we came to nothing; afterwards nobody reads this.
fn report(mut lease: &UnixStream, error: &Error) {
    let line = format!("error {}\n", refusal(error).replace('\n', " "));
    let _ = lease.write_all(line.as_bytes());
    log::debug!("{error:?}");
}

fn live(arguments: &Arguments, lease: UnixStream, origin: Instant) -> Result<()> {
    let bundle = Bundle::open(&arguments.bundle)?;
    let settings = Choice::default().load()?;
    let (mut plan, builder) = plan::of(&settings, &bundle)?;
    let place = net::Place::of(bundle.spec())?;
    let (home, berth) = Home::make(&arguments.root, &arguments.id)?;
    // Before anything is started that belongs there; the builder of a template has been, and does not.
    let group = group(
        &bundle,
        &arguments.id,
        arguments.systemd_cgroup,
        berth.dir(),
        &Company::default(),
    )?;
    // The engine's terminal and directory are none of ours.
    nix::unistd::setsid().attempt(|| "start a session".into())?;
    std::env::set_current_dir("/").attempt(|| "change to /".into())?;
    let runtime = runtime()?;
    if let Some(wish) = &arguments.user_network {
        // In the network of whoever wants it; it is tied to us by a socket.
        let _inside = runtime.enter();
        plan.passt = Mutex::new(Some(Passt::start(wish, Wire::make()?)?));
    }
    share::isolate()?;
    // With all that we start: what takes over the hypervisor reaches no more than its guest did.
    let claim = place.enter()?;
    plan.network = Some(claim.place);
    let share = Share::open(home.path())?;
    let life = Life {
        id: arguments.id.clone(),
        home,
        berth,
        group,
        claim: claim.socket,
        share,
        plan,
        standby: None,
        later: builder.map(Later::Builder),
    };
    life.lead(runtime, lease, origin)
}

fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.attempt(|| "start the runtime".into())
}

/// What waits until the sandbox is up.
#[derive(Debug)]
enum Later {
    /// A template is made.
    Builder(#[allow(dead_code, reason = "it begins when this is dropped")] Builder),
    /// The keeper of the machines that wait makes another one.
    Keeper(#[allow(dead_code, reason = "the keeper sees its end")] UnixStream),
}

/// All that a sandbox needs, in the place where it belongs.
struct Life {
    id: String,
    home: Home,
    berth: Berth,
    group: Option<Group>,
    /// Of the network namespace.
    claim: UnixListener,
    share: Share,
    plan: Blueprint,
    standby: Option<Standby>,
    later: Option<Later>,
}

impl Life {
    /// To its end.
    fn lead(self, runtime: Runtime, lease: UnixStream, origin: Instant) -> Result<()> {
        // The sandbox's directory goes last.
        let home = self.home;
        let Life {
            id,
            berth,
            group,
            claim,
            share,
            plan,
            standby,
            later,
            ..
        } = self;
        let end = runtime.block_on(async {
            let door = Door::over(base::socket::listen(&home.path().join("monitor.sock"))?)?;
            let mut spans = Spans::since(origin);
            spans.end("monitor", origin);
            let sandbox = Sandbox::new(&id, home.path(), share, plan, standby, spans)?;
            sandbox.expect(&id, Origin::default())?;
            let leases = Leases::open(home.path(), &sandbox)?;
            sandbox::metrics::open(home.path(), &sandbox)?;
            // Where Kata has it.
            let (socket, link) = (sandbox::metrics::SOCKET, berth.dir().join(sandbox::metrics::SOCKET));
            symlink(berth::sandbox(Path::new("")).join(socket), &link)
                .attempt(|| format!("link {}", link.display()))?;
            hold(claim, home.path(), &sandbox)?;
            serve(&sandbox, &door, leases, (lease, &id, berth.dir()), later).await
        });
        // What the tasks own goes with them: machine, device process, mounts.
        drop(runtime);
        drop(group);
        let abandoned = end?;
        // Others know of it by now, or nobody needs to.
        berth.keep();
        abandoned.map_or(Ok(()), |dir| berth::clear(&dir))
    }
}

/// Tells whoever asks in the network namespace whose it is, until the machine has ended: then another one may have it.
fn hold(claim: UnixListener, home: &Path, sandbox: &Arc<Sandbox>) -> Result<()> {
    claim.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
    let claim = tokio::net::UnixListener::from_std(claim).attempt(|| "watch a listener".into())?;
    let (answer, sandbox) = (net::answer(home), Arc::clone(sandbox));
    tokio::spawn(async move {
        let answering = async {
            while let Ok((mut client, _)) = claim.accept().await {
                // A short line fits: nobody can make us wait.
                let _ = client.write_all(&answer).await;
            }
        };
        tokio::select! {
            () = answering => {}
            _ = sandbox.down() => {}
        }
    });
    Ok(())
}

/// Moves us to the control group that the spec names. One that it does not name may be missing: then we stay where we are.
fn group(bundle: &Bundle, id: &str, systemd: bool, dir: &Path, company: &Company) -> Result<Option<Group>> {
    let (place, named) = Place::wanted(bundle, id, systemd)?;
    match Group::enter(&place, dir, company) {
        Err(e) if !named => {
            log::warn!(
                "the sandbox's processes stay in the control group of their caller: {}",
                e.chain()
            );
            crate::cgroup::forget(dir)?;
            Ok(None)
        }
        // Its kind is not that of the container: "exists" and "not found" mean something to engines.
        other => other.map(Some).context(Kind::Io, || format!("control group of {id}")),
    }
}

/// The answer is the directory of the last container, if its creator did not come to its end.
async fn serve(
    sandbox: &Arc<Sandbox>,
    door: &Door,
    mut leases: Leases,
    first: (UnixStream, &str, &Path),
    mut later: Option<Later>,
) -> Result<Option<PathBuf>> {
    let (mut lease, id, dir) = first;
    let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
    let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
    let mut hangup = signal(SignalKind::hangup()).attempt(|| "watch for SIGHUP".into())?;
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(door.listener())
        .register_service(service::services(sandbox));
    let started = server.start().await;
    started.context(Kind::Io, || "serve the sandbox".into())?;
    lease
        .write_all(b"ready\n")
        .context(Kind::Gone, || "tell that we are ready".into())?;
    lease.set_nonblocking(true).attempt(|| "unblock the lease".into())?;
    let lease = tokio::net::UnixStream::from_std(lease).attempt(|| "watch the lease".into())?;
    leases.hold(lease, id, dir);
    loop {
        tokio::select! {
            ended = leases.next() => match ended {
                // The machine is up: now it disturbs nobody.
                Outcome::Released => drop(later.take()),
                // All goes at once, whatever is under way.
                Outcome::Abandoned(tenant) if leases.none() && sandbox.alone(&tenant.id) => return Ok(Some(tenant.dir)),
                Outcome::Abandoned(tenant) => leases.undo(tenant),
                Outcome::Over => {}
            },
            () = sandbox.emptied(), if leases.none() => {
                // The one who deleted it still reads our answer.
                let _ = tokio::time::timeout(FAREWELL, door.quiet()).await;
                return Ok(None);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {}
        }
    }
    log::warn!("told to end: the machine is shut down");
    sandbox.close().await;
    let _ = tokio::time::timeout(FAREWELL, door.quiet()).await;
    Ok(None)
}
