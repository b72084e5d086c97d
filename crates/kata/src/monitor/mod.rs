// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata monitor`: the owner of one sandbox, started by [`crate::runtime::lease`]. One thread, its own mount namespace, the
//! container's network namespace, no standard streams. It serves the sandbox's services on `<root>/<id>/monitor.sock` until the last container is deleted.
//!
//! ```text
//! leased ──"release"──► on its own ──last container deleted──► end (the deleter removes the directory)
//!    └── EOF: the creator has died or failed ──► everything is taken down, the directory too
//! ```

mod arguments;
mod builder;
mod door;
pub mod plan;
mod standby;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::file::OwnedDir;
use base::{Context, Error, Kind, Result};
use oci::Bundle;
use sandbox::standby::Standby;
use sandbox::{Blueprint, Sandbox, Share, Spans, service, share};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroup::{Company, Group, Place};
use crate::shim::refusal;
use arguments::Arguments;
use builder::Builder;
use door::Door;

/// How long clients may take to read the last answers.
const FAREWELL: Duration = Duration::from_secs(5);

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
    let (mut plan, builder) = plan::of(&bundle)?;
    let place = net::Place::of(bundle.spec())?;
    let dir = OwnedDir::create(&arguments.root.join(&arguments.id))?;
    // Before anything is started that belongs there; the builder of a template has been, and does not.
    let group = group(
        &bundle,
        &arguments.id,
        arguments.systemd_cgroup,
        dir.path(),
        &Company::default(),
    )?;
    // The engine's terminal and directory are none of ours.
    nix::unistd::setsid().attempt(|| "start a session".into())?;
    std::env::set_current_dir("/").attempt(|| "change to /".into())?;
    share::isolate()?;
    // With all that we start: what takes over the hypervisor reaches no more than its guest did.
    plan.network = Some(place.enter()?);
    let share = Share::open(dir.path())?;
    let life = Life {
        id: arguments.id.clone(),
        dir,
        group,
        share,
        plan,
        standby: None,
        later: builder.map(Later::Builder),
    };
    life.lead(runtime()?, lease, origin)
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
    dir: OwnedDir,
    group: Option<Group>,
    share: Share,
    plan: Blueprint,
    standby: Option<Standby>,
    later: Option<Later>,
}

impl Life {
    /// To its end.
    fn lead(self, runtime: Runtime, lease: UnixStream, origin: Instant) -> Result<()> {
        let Life {
            id,
            dir,
            group,
            share,
            plan,
            standby,
            later,
        } = self;
        let end = runtime.block_on(async {
            let door = Door::open(&dir.path().join("monitor.sock"))?;
            let mut spans = Spans::since(origin);
            spans.end("monitor", origin);
            let sandbox = Sandbox::new(&id, dir.path(), share, plan, standby, spans)?;
            serve(&sandbox, &door, lease, later).await
        });
        // What the tasks own goes with them: machine, device process, mounts.
        drop(runtime);
        drop(group);
        match end? {
            End::Abandoned => drop(dir),
            End::Deleted | End::Told => {
                dir.keep();
            }
        }
        Ok(())
    }
}

/// Moves us to the control group that the spec names. One that it does not name may be missing: then we stay where we are.
fn group(bundle: &Bundle, id: &str, systemd: bool, dir: &Path, company: &Company) -> Result<Option<Group>> {
    let linux = bundle.spec().linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let place = Place::of(path, id, systemd)?;
    let named = path.is_some_and(|path| !path.as_os_str().is_empty());
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

enum End {
    /// The creator did not come to its end.
    Abandoned,
    /// The last container was deleted.
    Deleted,
    /// We were told to go.
    Told,
}

async fn serve(sandbox: &Arc<Sandbox>, door: &Door, mut lease: UnixStream, mut later: Option<Later>) -> Result<End> {
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
    let mut lease = tokio::net::UnixStream::from_std(lease).attempt(|| "watch the lease".into())?;
    let mut word = Vec::new();
    let mut released = false;
    loop {
        tokio::select! {
            read = lease.read_buf(&mut word), if !released => match read {
                Ok(1..) => {
                    released = word.ends_with(b"release\n");
                    if released {
                        // The machine is up: now it disturbs nobody.
                        drop(later.take());
                    }
                }
                _ => return Ok(End::Abandoned),
            },
            () = sandbox.emptied(), if released => {
                // The one who deleted it still reads our answer.
                let _ = tokio::time::timeout(FAREWELL, door.quiet()).await;
                return Ok(End::Deleted);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {}
        }
    }
    log::warn!("told to end: the machine is shut down");
    sandbox.close().await;
    let _ = tokio::time::timeout(FAREWELL, door.quiet()).await;
    Ok(End::Told)
}
