// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `containerd-shim-kata-v2`: what containerd starts for each container, or each group of them.
//!
//! ```text
//! containerd ── exec ──► … start     finds or makes the socket of the group, starts the server, prints where it listens
//!     │                   └──► … serve   the Task service: a thin client of monitors; parent of the shims that carry processes
//!     ├── ttrpc ────────────────┘
//!     └── exec ──► … delete    after a server that was killed: removes what it has left
//! ```
//!
//! It translates: what a call does is in [`crate::runtime`] and in the monitor.

mod arguments;
mod bootstrap;
mod container;
mod io;
mod logger;
mod metrics;
mod monitor;
mod options;
mod pod;
mod pod_spec;
mod publisher;
mod sandbox;
mod server;
mod sys;
mod task;
mod tasks;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use api::task::api::DeleteResponse;
use api::task::types::introspection::{RuntimeInfo, RuntimeVersion};
use base::{Context, Kind, Result};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::berth;
use crate::runtime::{Globals, delete};
use crate::settings::Choice;
use crate::shim::Log;
use arguments::{Action, Arguments};

/// The runtime type that users write.
pub const TYPE: &str = "io.containerd.kata.v2";
/// Beside runc's shim, a directory for each of containerd's namespaces.
pub const ROOT: &str = "/run/containerd/kata";
/// Exit status of a task whose end nobody saw: as after SIGKILL.
const LOST: u32 = 137;
/// Exit status of a process that could not be started: that of `exec`.
const NEVER_RAN: u32 = 255;

/// The runtime type that a program of this name stands for: `containerd-shim-kata-v2`, or with a variant as in
/// `containerd-shim-kata-qemu-v2`.
pub fn runtime_type(name: &str) -> Option<String> {
    let variant = name.strip_prefix("containerd-shim-")?.strip_suffix("-v2")?;
    let ours = variant == "kata" || variant.starts_with("kata-");
    ours.then(|| format!("io.containerd.{variant}.v2"))
}

/// `args` without the program's name and the role's word.
pub fn main(kind: &str, args: &[OsString]) -> ExitCode {
    // What containerd left open is for none of our children.
    crate::shim::sys::keep_descriptors_to_ourselves();
    match Arguments::parse(args).and_then(|arguments| act(kind, &arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{}", e.chain());
            eprintln!("{kind}: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn act(kind: &str, arguments: &Arguments) -> Result<()> {
    match &arguments.action {
        Action::Version => {
            let version = env!("CARGO_PKG_VERSION");
            crate::runtime::print(&format!("{kind}:\n  Version:  {version}\n"))
        }
        Action::Info => print(&info(kind)?),
        Action::Start => bootstrap::start(kind, arguments),
        Action::Serve => server::serve(kind, arguments),
        Action::Delete => print(&clean(kind, arguments)?),
        Action::Log(line) => logger::become_it(line),
    }
}

fn print(message: &impl protobuf::Message) -> Result<()> {
    let bytes = message
        .write_to_bytes()
        .context(Kind::Bug, || "write the answer".into())?;
    std::io::stdout()
        .write_all(&bytes)
        .attempt(|| "write to standard output".into())
}

/// What containerd 2 asks a runtime for before it uses it.
fn info(kind: &str) -> Result<RuntimeInfo> {
    // Its options, which change nothing in the answer.
    let _ = std::io::stdin().lock().take(1 << 20).read_to_end(&mut Vec::new());
    let features = serde_json::to_vec(&oci::features::document());
    let features = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
        value: features.context(Kind::Bug, || "write the features".into())?,
        ..Any::default()
    };
    let version = RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..RuntimeVersion::default()
    };
    Ok(RuntimeInfo {
        name: kind.to_owned(),
        version: Some(version).into(),
        features: Some(features).into(),
        ..RuntimeInfo::default()
    })
}

/// Removes what is left of a container whose server has gone.
fn clean(kind: &str, arguments: &Arguments) -> Result<DeleteResponse> {
    let bundle = arguments.bundle()?;
    let globals = globals(kind, arguments, &bundle)?;
    if pod::is_ours(&bundle) {
        // containerd asks for nothing else: those of its containers that are left have nobody, either.
        for dir in berth::companions(&globals.root.join(&arguments.id))? {
            let other = dir.file_name().unwrap_or_default().to_string_lossy();
            if other != arguments.id {
                delete::delete(&globals, &other, true)?;
            }
        }
    }
    delete::delete(&globals, &arguments.id, true)?;
    bootstrap::forget(&bundle)?;
    Ok(DeleteResponse {
        exit_status: LOST,
        exited_at: now(),
        ..DeleteResponse::default()
    })
}

/// For the containers of one of containerd's namespaces. Logs go where containerd reads them.
fn globals(kind: &str, arguments: &Arguments, bundle: &Path) -> Result<Globals> {
    let log = bundle.join("log");
    let choice = Choice {
        config: None,
        profile: profile(kind),
    };
    // What is wrong with it is told to whoever makes a container.
    let settings = choice.load_or_default()?;
    Ok(Globals {
        root: PathBuf::from(ROOT).join(&arguments.namespace),
        log: Log {
            file: log.exists().then_some(log),
            json: false,
            debug: arguments.debug || settings.config.log.debug,
        },
        systemd_cgroup: false,
        user_network: None,
        settings,
    })
}

/// The profile of a runtime type: `io.containerd.kata-NAME.v2` has one.
fn profile(kind: &str) -> Option<String> {
    let name = kind.strip_prefix("io.containerd.kata-")?.strip_suffix(".v2")?;
    Some(name.to_owned())
}

/// What a program of this runtime type is called.
fn program(kind: &str) -> String {
    let variant = kind
        .strip_prefix("io.containerd.")
        .and_then(|rest| rest.strip_suffix(".v2"));
    format!("containerd-shim-{}-v2", variant.unwrap_or("kata"))
}

/// As containerd writes times.
fn now() -> MessageField<Timestamp> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Some(Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_type_says_which_profile_is_meant() {
        assert_eq!(profile(TYPE), None);
        assert_eq!(profile("io.containerd.kata-small.v2").as_deref(), Some("small"));
    }

    #[test]
    fn a_name_says_which_runtime_type_it_stands_for() {
        for (name, kind) in [
            ("containerd-shim-kata-v2", Some(TYPE)),
            ("containerd-shim-kata-qemu-v2", Some("io.containerd.kata-qemu.v2")),
            ("containerd-shim-runc-v2", None),
            ("containerd-shim-katana-v2", None),
            ("containerd-shim-kata-v1", None),
            ("kata-runtime", None),
        ] {
            assert_eq!(runtime_type(name).as_deref(), kind, "{name}");
            if let Some(kind) = kind {
                assert_eq!(program(kind), name);
            }
        }
    }
}
