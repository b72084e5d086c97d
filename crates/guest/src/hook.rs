// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Hooks that belong to the guest: `createContainer` runs in the container's namespaces before its root is
//! entered, `startContainer` in the container just before the user's program. The other kinds run on the host.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci_spec::runtime::{Hook, Spec};

/// Runs them before the root is entered: their paths are the guest's.
pub fn create_container(id: &str, spec: &Spec) -> Result<()> {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.create_container().as_deref());
    run("createContainer", hooks, id, spec, "creating")
}

/// Runs them in the container, as the user of its process.
pub fn start_container(id: &str, spec: &Spec) -> Result<()> {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.start_container().as_deref());
    run("startContainer", hooks, id, spec, "created")
}

fn run(kind: &str, hooks: Option<&[Hook]>, id: &str, spec: &Spec, status: &str) -> Result<()> {
    for (place, hook) in hooks.unwrap_or_default().iter().enumerate() {
        let what = || format!("run hook {kind}[{place}] {}", hook.path().display());
        one(hook, &state(id, spec, status)).attempt(what)?;
    }
    Ok(())
}

/// The container's state as the runtime specification has it.
fn state(id: &str, spec: &Spec, status: &str) -> String {
    let state = serde_json::json!({
        "ociVersion": spec.version(), "id": id, "status": status, "pid": std::process::id(),
        "bundle": "/", "annotations": spec.annotations(),
    });
    state.to_string()
}

fn one(hook: &Hook, state: &str) -> Result<()> {
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some(name) = args.first() {
        command.arg0(name).args(&args[1..]);
    }
    command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    let mut child = command.spawn().attempt(|| "start it".into())?;
    let pid = i32::try_from(child.id()).context(Kind::Bug, || "a pid".into())?;
    // A hook may not care for the state; it then closes the pipe.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(state.as_bytes());
    }
    let held = Pidfd::open(pid)?;
    let limit = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    if !held.wait(limit)? {
        held.kill()?;
        let _ = child.wait();
        return Err(Error::new(Kind::Timeout, "it takes longer than its timeout"));
    }
    let ended = child.wait().attempt(|| "wait for it".into())?;
    if ended.success() {
        Ok(())
    } else {
        Err(Error::new(Kind::Guest, format!("it failed: {ended}")))
    }
}
