// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest template`: makes, lists and removes frozen guests. What a template is, the crate `machine` knows.

use std::io::{self, Read};
use std::time::Instant;

use base::{Context, Error, Kind, Result};
use clap::{Args, Subcommand};
use config::Loaded;
use log::LevelFilter;
use machine::template::{Store, Template};
use sandbox::{DeviceProcess, Size};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::sys;
use crate::monitor::plan;

/// Where the machine runs that is to be frozen, below the directory of its template, and what it shares: an empty directory.
const RUN: &str = "run";
const SHARE: &str = "shared";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a template, unless it is there already
    Build(Build),
    /// List templates
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove templates
    Rm {
        /// Keys, or starts of keys
        #[arg(required_unless_present = "all")]
        keys: Vec<String>,
        /// Remove every template
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub struct Build {
    /// Virtual CPUs [default: those of a container without limits]
    #[arg(long)]
    vcpus: Option<u32>,
    /// Memory [default: that of a container without limits]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// The hypervisor [default: hypervisor.name of the configuration, the best of this host]
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<String>,
    /// Make it even if it exists
    #[arg(long)]
    force: bool,
    /// Begin when the standard input ends, with low priority; leave it to another process that makes one already
    #[arg(long, hide = true)]
    background: bool,
}

pub fn run(settings: &Loaded, command: Command) -> Result<()> {
    let store = plan::templates(&settings.config);
    match command {
        Command::Build(arguments) if arguments.background => in_background(settings, &store, &arguments),
        Command::Build(arguments) => {
            let started = Instant::now();
            let (template, fresh) =
                make(settings, &store, &arguments)?.ok_or_else(|| Error::new(Kind::Bug, "no template"))?;
            let word = if fresh { "built" } else { "up to date:" };
            let took = started.elapsed().as_secs_f64();
            println!(
                "{word} {} ({}) in {took:.2} s",
                template.dir().display(),
                told(&template)
            );
            Ok(())
        }
        Command::Ls { json } => list(&store, json),
        Command::Rm { all: true, .. } => {
            let keys = store.matching("")?;
            keys.iter().try_for_each(|key| store.remove(key))?;
            println!("removed {} templates", keys.len());
            Ok(())
        }
        Command::Rm { keys, .. } => keys.iter().try_for_each(|key| remove(&store, key)),
    }
}

fn remove(store: &Store, start: &str) -> Result<()> {
    match store.matching(start)?.as_slice() {
        [key] if !start.is_empty() => store.remove(key),
        [] => Err(Error::new(Kind::NotFound, format!("no template {start}"))),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("several templates start with {start:?}"),
        )),
    }
}

fn in_background(settings: &Loaded, store: &Store, arguments: &Build) -> Result<()> {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    nix::unistd::setsid().attempt(|| "start a session".into())?;
    sys::be_nice();
    let log = store.dir().join("build.log");
    let begun = std::fs::create_dir_all(store.dir()).attempt(|| format!("create {}", store.dir().display()));
    begun.and_then(|()| base::log::start("template", Some(&log), base::log::Format::Text, LevelFilter::Warn))?;
    let made = make(settings, store, arguments);
    if let Err(e) = &made {
        log::error!("{}", e.chain());
        store.note_failure()?;
    }
    made.map(drop)
}

/// The template and whether it was made now; none when another process makes one.
fn make(settings: &Loaded, store: &Store, arguments: &Build) -> Result<Option<(Template, bool)>> {
    let wanted = oci::Overrides {
        hypervisor: arguments.hypervisor.clone(),
        vcpus: arguments.vcpus,
        memory_mib: arguments.memory,
        ..oci::Overrides::default()
    };
    let plan = plan::blueprint(settings, &wanted)?;
    let Size { vcpus, memory_mib } = plan.size(None);
    let spec = plan.template_spec(Size { vcpus, memory_mib });
    let recipe = plan.backend.recipe(&spec)?;
    let existing = || store.find(&recipe.key()).ok().flatten().filter(|_| !arguments.force);
    if let Some(template) = existing() {
        return Ok(Some((template, false)));
    }
    let Some(built) = store.begin(!arguments.background)? else {
        return Ok(None);
    };
    // Another process has made it while we waited.
    if let Some(template) = existing() {
        return Ok(Some((template, false)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.attempt(|| "start the runtime".into())?;
    let deadline = settings.config.template.boot_timeout;
    let run = base::file::OwnedDir::create(&built.dir().join(RUN))?;
    let share = run.path().join(SHARE);
    std::fs::create_dir(&share).attempt(|| format!("create directory {}", share.display()))?;
    runtime.block_on(async {
        let device = plan.serve(run.path(), &share, Some(&built.served()?))?;
        let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
        let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
        let stopped = || Err(Error::new(Kind::State, "interrupted, nothing was changed"));
        let frozen = tokio::select! {
            frozen = plan.backend.freeze(&spec, api::template::READY, run.path(), built.dir()) => frozen,
            _ = interrupt.recv() => stopped(),
            _ = terminate.recv() => stopped(),
            () = tokio::time::sleep(deadline) => {
                Err(Error::new(Kind::Timeout, format!("the guest is not up after {} s", deadline.as_secs())))
            }
        };
        // A hypervisor that misses its device process complains about sockets.
        match device.as_ref().and_then(DeviceProcess::cause) {
            Some(cause) => frozen.attempt(|| cause),
            None => frozen,
        }
    })?;
    drop(run);
    let template = built.finish(recipe, vcpus, memory_mib)?;
    Ok(Some((template, true)))
}

fn told(template: &Template) -> String {
    let manifest = template.manifest();
    format!(
        "{}, {} vCPUs, {} MiB of which {} are kept",
        manifest.recipe.backend,
        manifest.vcpus,
        manifest.memory_mib,
        manifest.size >> 20
    )
}

fn list(store: &Store, json: bool) -> Result<()> {
    let templates = store.list()?;
    if json {
        let rows = templates.iter().map(|template| {
            let manifest = template.manifest();
            json!({
                "key": manifest.key, "hypervisor": manifest.recipe.backend, "vcpus": manifest.vcpus,
                "memory_mib": manifest.memory_mib, "size": manifest.size, "path": template.dir(),
                "current": manifest.recipe.current(),
            })
        });
        println!("{}", rows.collect::<serde_json::Value>());
        return Ok(());
    }
    println!(
        "{:<14} {:<12} {:>5} {:>8} {:>8}  CURRENT",
        "KEY", "HYPERVISOR", "VCPUS", "MEMORY", "KEPT"
    );
    for template in templates {
        let manifest = template.manifest();
        println!(
            "{:<14} {:<12} {:>5} {:>8} {:>8}  {}",
            manifest.key.get(..12).unwrap_or(&manifest.key),
            manifest.recipe.backend,
            manifest.vcpus,
            manifest.memory_mib,
            manifest.size >> 20,
            if manifest.recipe.current() { "yes" } else { "no" },
        );
    }
    Ok(())
}
