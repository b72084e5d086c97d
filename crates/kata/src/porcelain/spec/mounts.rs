// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The mounts of every container, and where those of the options go among them.

use base::{Error, Kind, Result};
use serde_json::{Value, json};

use super::super::arguments::RunArgs;
use super::super::volume::tmpfs;
use crate::runtime::resources::size;

fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Value {
    let options: Vec<&str> = options.split(',').collect();
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn destination(mount: &Value) -> &str {
    mount["destination"].as_str().unwrap_or_default()
}

/// The mounts in the order in which they are made. One of the options takes the place of ours with the same target; two of the
/// options for one target are refused.
pub fn all(args: &RunArgs, more: &[Value]) -> Result<Vec<Value>> {
    let shm = size("shm-size", &args.shm_size)?;
    let ro = if args.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        mount("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{ro}")),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &format!("{ro},nosuid,noexec,nodev,relatime"),
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &format!("nosuid,noexec,nodev,mode=1777,size={shm}"),
        ),
    ];
    let mut asked = args.tmpfs.iter().map(|text| tmpfs(text)).collect::<Result<Vec<_>>>()?;
    asked.extend(more.iter().cloned());
    for (index, mount) in asked.iter().enumerate() {
        if asked[..index]
            .iter()
            .any(|other| destination(other) == destination(mount))
        {
            let what = format!("{} is asked for twice", destination(mount));
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    for ours in &mut all {
        if let Some(index) = asked.iter().position(|mount| destination(mount) == destination(ours)) {
            *ours = asked.remove(index);
        }
    }
    // A mount hides what is mounted below it before.
    asked.sort_by_key(|mount| destination(mount).matches('/').count());
    all.extend(asked);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::arguments::{Line, Verb};
    use super::*;

    fn of(options: &str, more: &[Value]) -> Result<Vec<String>> {
        let words = format!("kata run {options} i");
        let Some(Verb::Run(args)) = Line::try_parse_from(words.split_whitespace()).unwrap().verb else {
            panic!("a verb")
        };
        let mounts = all(&args, more)?;
        Ok(mounts.iter().map(|mount| destination(mount).to_owned()).collect())
    }

    #[test]
    fn those_of_the_options_win_and_come_by_depth() {
        let bind = |to: &str| json!({ "destination": to, "type": "bind", "source": "/x" });
        let mounts = of("--tmpfs /a/b/c", &[bind("/a/b"), bind("/dev/shm"), bind("/z")]).unwrap();
        assert_eq!(mounts[6..], ["/dev/shm", "/z", "/a/b", "/a/b/c"]);
        assert_eq!(mounts.len(), 10);
        let twice = of("--tmpfs /a", &[bind("/a")]).unwrap_err();
        assert!(twice.chain().contains("/a is asked for twice"));
        assert!(of("--shm-size x", &[]).is_err());
    }
}
