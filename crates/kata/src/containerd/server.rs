// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The process that containerd talks to, until its last container is deleted.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Arguments;
use super::publisher::Publisher;
use super::tasks::Tasks;
use super::{globals, sandbox, task};
use crate::door::Door;

/// How long the last events and answers may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Threads for what waits; the rest waits in line.
const THREADS: usize = 32;
/// How long such a thread waits for more.
const IDLE: Duration = Duration::from_secs(1);

/// Serves on the socket that is our standard input.
pub fn serve(kind: &str, arguments: &Arguments) -> Result<()> {
    let bundle = arguments.bundle()?;
    let globals = globals(kind, arguments, &bundle)?;
    globals.log.start("containerd-shim")?;
    // containerd's session and directory are none of ours.
    nix::unistd::setsid().attempt(|| "start a session".into())?;
    std::env::set_current_dir("/").attempt(|| "change to /".into())?;
    let socket = arguments.socket.as_deref();
    let socket = socket.ok_or_else(|| Error::new(Kind::Invalid, "serve: -socket is needed"))?;
    let listener = std::io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(listener.attempt(|| "take over the socket".into())?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS)
        .thread_keep_alive(IDLE)
        .build();
    let runtime = runtime.attempt(|| "start the runtime".into())?;
    runtime.block_on(async {
        let publisher = Publisher::start(&arguments.namespace, events(&arguments.address));
        let tasks = Tasks::new(globals, &arguments.namespace, publisher);
        let door = Door::over(listener)?;
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(door.listener())
            .register_service(task::services(&tasks))
            .register_service(sandbox::services(&tasks));
        let started = server.start().await;
        started.context(Kind::Io, || "serve tasks".into())?;
        let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
        let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
        tokio::select! {
            () = tasks.over.notified() => {}
            _ = terminate.recv() => tasks.remove_pod().await,
            _ = interrupt.recv() => tasks.remove_pod().await,
        }
        remove(socket);
        tasks.publisher.flush(FAREWELL).await;
        // Who asked us to go still reads our answer.
        let _ = tokio::time::timeout(FAREWELL, door.quiet()).await;
        Ok(())
    })
}

/// Where containerd takes events.
fn events(address: &str) -> PathBuf {
    let told = std::env::var("TTRPC_ADDRESS").ok().filter(|told| !told.is_empty());
    let told = told.unwrap_or_else(|| format!("{address}.ttrpc"));
    PathBuf::from(told.strip_prefix("unix://").unwrap_or(&told))
}

fn remove(socket: &Path) {
    if let Err(e) = std::fs::remove_file(socket) {
        log::warn!("remove {}: {e}", socket.display());
    }
}
