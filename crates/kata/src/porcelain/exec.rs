// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata exec`: the container's own process with what the options change.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;

use base::{Context, Error, Kind, Result};
use oci::spec::Process;
use serde_json::{Value, json};

use super::arguments::ExecArgs;
use super::environment::Environment;
use super::user::Identity;
use super::{Failure, Here, run, spec};
use crate::runtime::container::Container;
use crate::runtime::exec::{attend, check, detach, own};

/// The answer is the process's exit code, 0 when detached.
pub fn exec(here: &Here, args: &ExecArgs) -> Result<u8, Failure> {
    let name = args.words.first().map_or("", String::as_str);
    let (place, record) = here.records.known(name)?;
    let container = match Container::find(&here.root, &record.id) {
        Err(e) if e.kind() == Kind::NotFound => {
            return Err(Error::new(Kind::State, format!("container {name} is not running")).into());
        }
        other => other?,
    };
    check(&container, false).attempt(|| format!("container {name}"))?;
    let user = args.process.user.as_deref();
    let identity = user.map(|user| place.accounts(&record)?.resolve(user)).transpose()?;
    let process = process(&own(&container)?, args, identity.as_ref())?;
    if args.detach {
        let null = || -> Result<OwnedFd> {
            let null = OpenOptions::new().read(true).write(true).open("/dev/null");
            null.map(OwnedFd::from).attempt(|| "open /dev/null".into())
        };
        let stdio = [null()?, null()?, null()?];
        let globals = here.globals(Some(place.log()));
        let detached = detach(&globals, &container, &process, None, Some(stdio), None);
        return detached.map(|()| 0).map_err(Failure::of_start);
    }
    attend(&container, &process, run::stdio(args.interactive, args.tty)?, None).map_err(Failure::of_start)
}

/// The process for the guest.
fn process(own: &Process, args: &ExecArgs, identity: Option<&Identity>) -> Result<Process> {
    let mut process = serde_json::to_value(own).context(Kind::Bug, || "write the process".into())?;
    process["args"] = args.words.get(1..).unwrap_or_default().into();
    process["terminal"] = args.tty.into();
    if let Some(cwd) = &args.process.workdir {
        process["cwd"] = cwd.as_str().into();
    }
    if let Some(Identity { uid, gid, groups }) = identity {
        process["user"] = json!({ "uid": uid, "gid": gid, "additionalGids": groups });
    }
    let mut variables = Environment::of(own.env().iter().flatten().cloned());
    if args.tty {
        variables.set("TERM=xterm");
    }
    variables.add(&args.process)?;
    process["env"] = variables.into_list().into();
    process["capabilities"] = capabilities(&process, args.privileged);
    let process = serde_json::from_value(process).context(Kind::Bug, || "read the process".into())?;
    oci::bundle::check_process(&process)?;
    Ok(process)
}

/// Within the container's bounds, unless privileged: root holds all of them, others what the container's process was given by name.
fn capabilities(process: &Value, privileged: bool) -> Value {
    let mut sets = process["capabilities"].clone();
    if privileged {
        sets["bounding"] = spec::all_capabilities().into_iter().collect();
    }
    let root = process["user"]["uid"] == 0;
    let held = if root || privileged {
        &sets["bounding"]
    } else {
        &sets["ambient"]
    }
    .clone();
    for set in ["effective", "permitted"] {
        sets[set] = held.clone();
    }
    sets
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Line, Verb};
    use super::*;

    fn made(words: &str, identity: Option<&Identity>) -> Result<Value> {
        let own = r#"{"user":{"uid":0,"gid":0},"args":["init"],"cwd":"/","env":["A=1","B=2"],"terminal":false,
            "capabilities":{"bounding":["CAP_KILL","CAP_CHOWN"],"effective":["CAP_KILL","CAP_CHOWN"]}}"#;
        let line = format!("kata exec {words}");
        let Some(Verb::Exec(args)) = Line::try_parse_from(line.split_whitespace()).unwrap().verb else {
            panic!("a verb")
        };
        let process = process(&serde_json::from_str(own).unwrap(), &args, identity)?;
        Ok(serde_json::to_value(process).unwrap())
    }

    #[test]
    fn options_change_the_containers_process() {
        let user = Identity {
            uid: 7,
            gid: 8,
            groups: vec![9],
        };
        let got = made("-t -e A=x -w /tmp box ls -l", Some(&user)).unwrap();
        assert_eq!(got["args"], json!(["ls", "-l"]));
        assert_eq!(got["env"], json!(["A=x", "B=2", "TERM=xterm"]));
        assert_eq!((&got["cwd"], &got["terminal"]), (&json!("/tmp"), &json!(true)));
        assert_eq!(got["user"], json!({"uid": 7, "gid": 8, "additionalGids": [9]}));
        assert!(got["capabilities"]["effective"].as_array().is_none_or(Vec::is_empty));
        let got = made("box ls", None).unwrap();
        assert_eq!(got["capabilities"]["effective"].as_array().unwrap().len(), 2);
        let got = made("--privileged box ls", None).unwrap();
        assert_eq!(got["capabilities"]["permitted"].as_array().unwrap().len(), 41);
        assert!(
            made("-w tmp box ls", None)
                .unwrap_err()
                .chain()
                .contains("absolute path")
        );
    }
}
