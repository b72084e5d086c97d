// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The `config.json` of a container as docker would write it, from the options and from what was found out about the image. It
//! knows no files.

mod capabilities;
mod limits;
mod mounts;

use std::path::{Path, PathBuf};

use base::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::arguments::RunArgs;
use super::user::Identity;
pub use capabilities::all as all_capabilities;

const MASKED: &str = "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug \
    /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware";
const READ_ONLY: &str = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";

/// What the options do not say.
#[derive(Debug)]
pub struct Found {
    /// `root.path`.
    pub root: PathBuf,
    pub hostname: String,
    pub command: Vec<String>,
    pub cwd: String,
    pub environment: Vec<String>,
    pub identity: Identity,
    /// Volumes and the like.
    pub mounts: Vec<Value>,
}

/// The document. Errors: `Invalid`, naming the option.
pub fn document(args: &RunArgs, found: &Found) -> Result<Value> {
    if !Path::new(&found.cwd).is_absolute() {
        let what = format!("working directory {:?} is not an absolute path", found.cwd);
        return Err(Error::new(Kind::Invalid, what));
    }
    let Identity { uid, gid, groups } = &found.identity;
    let paths = |text: &str| -> Value {
        if args.privileged {
            return json!([]);
        }
        text.split_whitespace().collect()
    };
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": args.tty,
            "user": { "uid": uid, "gid": gid, "additionalGids": groups },
            "args": found.command,
            "env": found.environment,
            "cwd": found.cwd,
            "capabilities": capabilities::sets(args, *uid == 0)?,
            "rlimits": limits::rlimits(&args.ulimit)?,
            "noNewPrivileges": false
        },
        "root": { "path": found.root, "readonly": args.read_only },
        "hostname": found.hostname,
        "mounts": mounts::all(args, &found.mounts)?,
        "annotations": annotations(args)?,
        "linux": {
            "resources": limits::resources(args)?,
            "namespaces": namespaces,
            "maskedPaths": paths(MASKED),
            "readonlyPaths": paths(READ_ONLY)
        }
    }))
}

fn annotations(args: &RunArgs) -> Result<Value> {
    let mut all = Map::new();
    for text in &args.annotation {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Error::new(Kind::Invalid, format!("annotation {text:?} is not KEY=VALUE")))?;
        all.insert(key.to_owned(), value.into());
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Line, Verb};
    use super::*;

    fn run(options: &str) -> RunArgs {
        let words = format!("kata run {options} i");
        match Line::try_parse_from(words.split_whitespace()).unwrap().verb {
            Some(Verb::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn made(options: &str, uid: u32) -> Result<Value> {
        let found = Found {
            root: "rootfs".into(),
            hostname: "h".into(),
            command: vec!["sh".into()],
            cwd: "/tmp".into(),
            environment: vec!["A=b".into()],
            identity: Identity {
                uid,
                gid: 5,
                groups: vec![6],
            },
            mounts: Vec::new(),
        };
        document(&run(options), &found)
    }

    #[test]
    fn it_is_a_spec_that_a_bundle_takes() {
        let options = "-t --memory 100m --cpus 0.5 --pids-limit 9 --ulimit core=0 --annotation a=b=c --read-only";
        let spec = made(options, 1000).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let bundle = oci::Bundle::parse(dir.path().to_owned(), spec.to_string().into_bytes()).unwrap();
        assert!(bundle.terminal());
        assert_eq!(bundle.annotations().unwrap()["a"], "b=c");
        let resources = bundle.resources().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(104_857_600));
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([6]));
    }

    #[test]
    fn the_privileged_see_everything_of_their_machine() {
        let spec = made("--privileged", 0).unwrap();
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        let sys = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["destination"] == "/sys");
        assert!(!sys.unwrap()["options"].to_string().contains("\"ro\""));
        let spec = made("", 0).unwrap();
        assert!(spec["linux"]["maskedPaths"].to_string().contains("/proc/kcore"));
    }

    #[test]
    fn nonsense_names_its_option() {
        for (options, why) in [
            ("--annotation x", "annotation \"x\" is not KEY=VALUE"),
            ("--memory much", "memory: \"much\""),
            ("--cpus x", "cpus"),
            ("--ulimit x=1", "ulimit \"x=1\""),
            ("--cap-add frob", "capability \"FROB\""),
            ("--tmpfs t", "tmpfs \"t\""),
        ] {
            let chain = made(options, 0).unwrap_err().chain();
            assert!(chain.contains(why), "{options}: {chain}");
        }
    }
}
