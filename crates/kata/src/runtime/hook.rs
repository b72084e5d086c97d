// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The host's hooks: programs that read the container's state on standard input.

use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci::spec::Hook;
use oci::{Bundle, Moment, State};

/// Runs the hooks of a moment in order, up to the first that fails.
pub fn run(bundle: &Bundle, moment: Moment, state: &State) -> Result<()> {
    for (index, hook) in bundle.hooks(moment).iter().enumerate() {
        let what = || format!("{} hook #{index} ({})", moment.name(), hook.path().display());
        one(hook, state).attempt(what)?;
    }
    Ok(())
}

/// As [`run`], but a failure is only warned about, as the specification wants it once the process has started.
pub fn run_on(bundle: &Bundle, moment: Moment, state: &State) {
    if let Err(e) = run(bundle, moment, state) {
        log::warn!("{}", e.chain());
    }
}

fn one(hook: &Hook, state: &State) -> Result<()> {
    let mut input = serde_json::to_vec(state).context(Kind::Bug, || "write the state".into())?;
    input.push(b'\n');
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command.args(args.get(1..).unwrap_or_default()).env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let mut child = base::inherited::spawn(&mut command, &[]).attempt(|| "start it".into())?;
    // A hook need not read its input.
    match child.stdin.take().map(|mut stdin| stdin.write_all(&input)) {
        Some(Err(e)) if e.kind() != ErrorKind::BrokenPipe => return Err(e).attempt(|| "write the state to it".into()),
        _ => {}
    }
    if let Some(seconds) = hook.timeout() {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let held = Pidfd::open(i32::try_from(child.id()).unwrap_or_default());
        if let Ok(held) = held
            && !held.wait(Some(Duration::from_secs(seconds)))?
        {
            held.kill()?;
            let _ = child.wait();
            return Err(Error::new(Kind::Timeout, format!("not done after {seconds} s")));
        }
    }
    let status = child.wait().attempt(|| "wait for it".into())?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Kind::Io, format!("error running hook: {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &std::path::Path, hooks: &serde_json::Value) -> Bundle {
        std::fs::create_dir_all(dir.join("rootfs")).unwrap();
        let spec = serde_json::json!({
            "ociVersion": "1.0.2", "root": { "path": "rootfs" }, "hooks": hooks,
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": "/" }
        });
        Bundle::parse(dir.to_owned(), spec.to_string().into_bytes()).unwrap()
    }

    fn state() -> State {
        State {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            pid: 5,
            status: oci::Status::Created,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: String::new(),
            annotations: std::collections::BTreeMap::new(),
            owner: String::new(),
        }
    }

    fn shell(script: &str) -> serde_json::Value {
        serde_json::json!({ "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["X=1"] })
    }

    #[test]
    fn hooks_get_the_state_and_their_environment_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let first = shell(&format!("/bin/cat > {0}; echo $0 $X $HOME >> {0}", out.display()));
        let second = shell(&format!("echo second >> {}", out.display()));
        let bundle = bundle(dir.path(), &serde_json::json!({ "createRuntime": [first, second] }));
        run(&bundle, Moment::CreateRuntime, &state()).unwrap();
        run(&bundle, Moment::Poststop, &state()).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(serde_json::from_str::<State>(lines[0]).unwrap(), state());
        assert_eq!(lines[1..], ["hook 1", "second"]);
    }

    #[test]
    fn failures_say_which_hook_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut slow = shell("exec /bin/sleep 60");
        slow["timeout"] = 0.into();
        for (hook, why) in [
            (
                shell("exit 3"),
                "prestart hook #0 (/bin/sh): error running hook: exit status: 3",
            ),
            (slow, "not done after 0 s"),
            (serde_json::json!({ "path": "/no/such" }), "start it: No such file"),
        ] {
            let bundle = bundle(dir.path(), &serde_json::json!({ "prestart": [hook] }));
            let error = run(&bundle, Moment::Prestart, &state()).unwrap_err();
            assert!(error.chain().contains(why), "{}", error.chain());
        }
    }
}
