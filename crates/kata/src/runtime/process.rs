// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The process that `exec` describes: the container's own with changes, or a whole one from a file.

use std::path::Path;

use base::{Context, Error, Kind, Result};
use oci::spec::{Capabilities, Capability, Process};

use super::arguments::ExecArgs;

/// Reads and checks a process from `path`.
pub fn read(path: &Path) -> Result<Process> {
    let json = std::fs::read(path).attempt(|| format!("read {}", path.display()))?;
    let process: Process =
        serde_json::from_slice(&json).context(Kind::Invalid, || format!("parse {}", path.display()))?;
    oci::bundle::check_process(&process).attempt(|| format!("check {}", path.display()))?;
    Ok(process)
}

/// The process of the container with the changes that the options ask for.
pub fn derive(mut process: Process, args: &ExecArgs) -> Result<Process> {
    if args.command.is_empty() {
        return Err(Error::new(Kind::Invalid, "process args cannot be empty"));
    }
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    user(&mut process, args)?;
    capabilities(&mut process, &args.cap)?;
    oci::bundle::check_process(&process)?;
    Ok(process)
}

fn user(process: &mut Process, args: &ExecArgs) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = &args.user {
        let number = |part: &str| {
            part.parse()
                .context(Kind::Invalid, || format!("user {text:?} is not UID[:GID]"))
        };
        let (uid, gid) = text
            .split_once(':')
            .map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    groups.extend(&args.additional_gids);
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

fn capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let parse = |name: &String| -> Result<Capability> {
        let upper = name.to_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        serde_json::from_value(format!("CAP_{name}").into()).context(Kind::Invalid, || format!("capability {name:?}"))
    };
    let more = names.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let add = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more.iter().copied());
        Some(set)
    };
    let (bounding, effective) = (add(sets.bounding()), add(sets.effective()));
    let (permitted, ambient) = (add(sets.permitted()), add(sets.ambient()));
    sets.set_bounding(bounding);
    sets.set_effective(effective);
    sets.set_permitted(permitted);
    sets.set_ambient(ambient);
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Line, Verb};
    use super::*;

    fn exec(words: &str) -> ExecArgs {
        let words = ["kata-runtime", "exec"].into_iter().chain(words.split_whitespace());
        match Line::try_parse_from(words).unwrap().verb {
            Some(Verb::Exec(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn base() -> Process {
        let json = r#"{"user":{"uid":1,"gid":2},"args":["init"],"cwd":"/","env":["A=1"],"terminal":true,
            "capabilities":{"bounding":["CAP_KILL"]}}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn options_change_the_containers_process() {
        let words = "-e B=2 --cwd /tmp -u 7:8 -g 9 -g 10 --cap net_admin --no-new-privs c1 ls -l";
        let process = derive(base(), &exec(words)).unwrap();
        let json = serde_json::to_value(&process).unwrap();
        assert_eq!(json["args"], serde_json::json!(["ls", "-l"]));
        assert_eq!(json["env"], serde_json::json!(["A=1", "B=2"]));
        assert_eq!(json["cwd"], "/tmp");
        assert_eq!(
            json["user"],
            serde_json::json!({"uid": 7, "gid": 8, "additionalGids": [9, 10]})
        );
        assert_eq!(
            (&json["terminal"], &json["noNewPrivileges"]),
            (&false.into(), &true.into())
        );
        let bounding = json["capabilities"]["bounding"].as_array().unwrap();
        assert_eq!(bounding.len(), 2);
        assert_eq!(json["capabilities"]["ambient"], serde_json::json!(["CAP_NET_ADMIN"]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (words, why) in [
            ("c1", "args cannot be empty"),
            ("-u root c1 ls", "user \"root\" is not"),
            ("-u 1:x c1 ls", "is not UID[:GID]"),
            ("--cwd x c1 ls", "cwd must be an absolute path"),
            ("--cap nonsense c1 ls", "capability \"NONSENSE\""),
        ] {
            let error = derive(base(), &exec(words)).unwrap_err();
            assert!(error.chain().contains(why), "{}", error.chain());
        }
    }
}
