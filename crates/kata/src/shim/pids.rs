// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The pid namespace that a shim stands in. Engines tell containers apart by those of the processes that stand for them
//! (`podman pod top`), so it is one of its own, another container's or the caller's, as the spec has it for the container.
//!
//! The first process of a namespace takes all others along at its end, as the container's init does in the guest.

use std::fs::File;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};
use nix::sched::{CloneFlags, setns, unshare};
use oci::Bundle;
use oci::spec::LinuxNamespaceType;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pids {
    /// That of the caller.
    Callers,
    /// One of its own.
    Own,
    /// One that is there.
    At(PathBuf),
}

impl Pids {
    /// What the spec of `bundle` asks for.
    pub fn of(bundle: &Bundle) -> Pids {
        let linux = bundle.spec().linux().iter();
        let mut namespaces = linux.flat_map(|linux| linux.namespaces().iter().flatten());
        let Some(namespace) = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Pid) else {
            return Pids::Callers;
        };
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => Pids::At(path.clone()),
            _ => Pids::Own,
        }
    }

    /// What `spawn` starts stands there. Only children of this thread do, and only until then: no thread can be started meanwhile.
    pub fn around<T>(&self, spawn: impl FnOnce() -> T) -> Result<T> {
        let own = "/proc/self/ns/pid";
        let back = File::open(own).attempt(|| format!("open {own}"))?;
        match self {
            Pids::Callers => return Ok(spawn()),
            Pids::Own => unshare(CloneFlags::CLONE_NEWPID).attempt(|| "make a pid namespace".into())?,
            Pids::At(path) => {
                let what = || format!("join the pid namespace {}", path.display());
                let namespace = File::open(path).attempt(what)?;
                setns(namespace, CloneFlags::CLONE_NEWPID).attempt(what)?;
            }
        }
        let spawned = spawn();
        setns(back, CloneFlags::CLONE_NEWPID).attempt(|| "return to the pid namespace".into())?;
        Ok(spawned)
    }
}

/// The pid of this process for those who look at the same `/proc`: in a namespace of its own it counts otherwise.
pub fn own() -> Result<u32> {
    let link = std::fs::read_link("/proc/self").attempt(|| "look for our pid in /proc".into())?;
    let pid = link.to_str().and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| Error::new(Kind::Bug, format!("/proc/self leads to {}", link.display())))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn namespace(pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/ns/pid")).read_link().unwrap()
    }

    /// A process that ends with its input.
    fn stand(pids: &Pids) -> Child {
        let mut command = Command::new("cat");
        let spawned = pids.around(|| command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn());
        spawned.unwrap().unwrap()
    }

    #[test]
    fn a_process_stands_where_the_spec_has_it() {
        for (namespaces, wanted) in [
            (r#"{"type":"uts"}"#, Pids::Callers),
            (r#"{"type":"uts"},{"type":"pid"}"#, Pids::Own),
            (r#"{"type":"pid","path":""}"#, Pids::Own),
            (
                r#"{"type":"pid","path":"/proc/7/ns/pid"}"#,
                Pids::At("/proc/7/ns/pid".into()),
            ),
        ] {
            let json = format!(
                r#"{{"ociVersion":"1.0.2","root":{{"path":"/"}},"process":{{"args":["x"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                    "linux":{{"namespaces":[{namespaces}]}}}}"#
            );
            let bundle = Bundle::parse("/b".into(), json.into_bytes()).unwrap();
            assert_eq!(Pids::of(&bundle), wanted, "{namespaces}");
        }
    }

    #[test]
    fn namespaces_are_made_and_joined_and_left_again() {
        assert_eq!(own().unwrap(), std::process::id());
        let gone = Pids::At("/proc/0/ns/pid".into());
        assert!(gone.around(|| ()).unwrap_err().chain().contains("/proc/0/ns/pid"));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: pid namespaces need root");
            return;
        }
        let here = namespace(own().unwrap());
        let first = stand(&Pids::Own);
        let second = stand(&Pids::At(format!("/proc/{}/ns/pid", first.id()).into()));
        let other = stand(&Pids::Own);
        let ours = stand(&Pids::Callers);
        let found = [&first, &second, &other, &ours].map(|child| namespace(child.id()));
        assert_eq!(found[0], found[1]);
        assert_eq!(found[3], here);
        assert!(
            found[0] != here && found[2] != here && found[0] != found[2],
            "{found:?}"
        );
        for mut child in [second, first, other, ours] {
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
        }
    }
}
