// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata monitor`, as a person types it: the metrics of all sandboxes of this node, at one port. It asks each sandbox's own monitor
//! when it is asked itself, keeps nothing, and changes nothing.
//!
//! ```text
//! Prometheus ── GET /metrics ──► kata monitor ──┬── GET /metrics ──► <root>/@<id>/shim-monitor.sock   (all at once,
//!                                               └── …                                                 each in time)
//! ```

mod gather;
mod sandboxes;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use base::{Context, Error, Kind, Result};
use clap::Parser;
use metrics::http::serve;
use tokio::signal::unix::{SignalKind, signal};

use crate::line;
use crate::runtime::print;
use crate::settings::Choice;
use gather::Node;
use sandboxes::Roots;

/// Serves the metrics of all sandboxes of this machine to Prometheus, until it is told to end
#[derive(Debug, Parser)]
#[command(
    name = "kata monitor",
    disable_version_flag = true,
    after_help = "Pages: /metrics (all sandboxes; /metrics?sandbox=ID: one), /sandboxes (their ids), / (what there is).
Sandboxes are those of the runtime's root directory (KATA_RUN_DIR, /run/kata), of containerd's namespaces (/run/containerd/kata/*) and
of --root. One that does not answer is counted, and keeps nobody waiting for long. The first line of the output is the address."
)]
struct Options {
    /// Where it listens: ADDRESS:PORT
    #[arg(
        long,
        visible_alias = "listen-address",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8090"
    )]
    listen: String,
    /// Further root directory of a runtime (`kata-runtime --root`)
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Options as clap::CommandFactory>::command()
}

/// `args` without the program's name and the role's word.
pub fn main(choice: &Choice, args: &[OsString]) -> ExitCode {
    let options = match line::parse::<Options>("kata monitor", args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    match live(choice, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kata monitor: {}", e.chain().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn live(choice: &Choice, options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Kind::Denied, "must be run as root: sandboxes are root's"));
    }
    let settings = choice.load_or_default()?;
    let roots = Roots::with(&settings.config.runtime.root, &options.root)?;
    let what = || format!("listen on {:?} (--listen ADDRESS:PORT)", options.listen);
    let listener = TcpListener::bind(&options.listen).attempt(what)?;
    listener.set_nonblocking(true).attempt(what)?;
    let address = listener.local_addr().attempt(what)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.attempt(|| "start the runtime".into())?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
        let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
        let listener = tokio::net::TcpListener::from_std(listener).attempt(what)?;
        print(&format!("{address}\n"))?;
        tokio::select! {
            () = serve(listener, Arc::new(Node::new(roots))) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// Prints the metrics of the sandbox of a container of the runtime with the directory `root`, or with this id itself. Errors:
/// `NotFound`, and `Gone` when its monitor has ended.
pub fn show(root: &Path, id: &str) -> Result<()> {
    let home = Roots::only(root).find(id)?;
    tell(&home)
}

/// As [`show`], wherever on this node it is.
pub fn show_any(root: &Path, id: &str) -> Result<()> {
    let home = Roots::with(root, &[])?.find(id)?;
    tell(&home)
}

fn tell(home: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.attempt(|| "start the runtime".into())?;
    print(&runtime.block_on(gather::ask(home))?)
}
