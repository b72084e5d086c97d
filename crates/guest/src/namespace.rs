// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Namespaces: making those of a container, naming what is in them, and joining them.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use crate::sys;

/// Namespaces that are new in nearly every container, and that can be made before the rest of its spec is known.
pub const EARLY: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// A namespace that the spec names by a path, which is the host's.
#[derive(Debug)]
pub struct Join {
    /// Its type.
    pub kind: LinuxNamespaceType,
    /// What it is in the guest; none: a new one.
    pub of: Option<OwnedFd>,
}

/// The namespace of a type in which the process `pid` is, which must not be reaped meanwhile.
pub fn of(pid: i32, kind: LinuxNamespaceType) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{}", name_of(kind));
    fs::File::open(&path)
        .map(OwnedFd::from)
        .attempt(|| format!("open namespace {path}"))
}

fn name_of(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

/// Which of them a container's process may begin with that joins `joined`: all or none. What follows upon a user namespace belongs to
/// it, and one of time begins with a fork.
pub fn early(spec: &Spec, joined: &[LinuxNamespaceType]) -> CloneFlags {
    let wanted = wanted(spec) - flags(joined);
    let first = CloneFlags::CLONE_NEWUSER | flag(LinuxNamespaceType::Time);
    if wanted.contains(EARLY) && !wanted.intersects(first) {
        EARLY
    } else {
        CloneFlags::empty()
    }
}

/// Leaves the guest's namespaces, but for those `left` before, for those to be joined and for new ones; those of pids and time begin
/// with the next fork.
pub fn leave(spec: &Spec, left: CloneFlags, joined: &[(LinuxNamespaceType, OwnedFd)]) -> Result<()> {
    // Who has entered a user namespace has rights in what belongs to it, and in nothing else.
    let (users, others): (Vec<_>, Vec<_>) = joined.iter().partition(|(kind, _)| *kind == LinuxNamespaceType::User);
    for (kind, namespace) in others.into_iter().chain(users) {
        setns(namespace.as_fd(), flag(*kind)).attempt(|| format!("join a namespace of type {kind}"))?;
        if *kind == LinuxNamespaceType::User {
            become_root()?;
        }
    }
    let kinds: Vec<_> = joined.iter().map(|(kind, _)| *kind).collect();
    let wanted = wanted(spec) - left - flags(&kinds);
    if wanted.contains(CloneFlags::CLONE_NEWUSER) {
        unshare_user(spec)?;
    }
    // After the user namespace, so that they belong to it.
    let others = wanted - CloneFlags::CLONE_NEWUSER;
    nix::sched::unshare(others).attempt(|| format!("make the namespaces {others:?}"))?;
    for (clock, offset) in spec
        .linux()
        .iter()
        .flat_map(|linux| linux.time_offsets().iter().flatten())
    {
        let line = format!(
            "{clock} {} {}\n",
            offset.secs().unwrap_or(0),
            offset.nanosecs().unwrap_or(0)
        );
        fs::write("/proc/self/timens_offsets", &line).attempt(|| format!("set time offset {line:?}"))?;
    }
    Ok(())
}

/// Host and domain name, and kernel parameters, all of which belong to a namespace.
pub fn name(spec: &Spec) -> Result<()> {
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        nix::unistd::sethostname(name).attempt(|| format!("set host name {name}"))?;
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        sys::set_domain_name(name).attempt(|| format!("set domain name {name}"))?;
    }
    for (key, value) in spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten()) {
        let path = format!("/proc/sys/{}", sysctl_path(key));
        let file = fs::OpenOptions::new().write(true).open(&path);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .attempt(|| format!("set kernel parameter {key} to {value}"))?;
    }
    Ok(())
}

/// As sysctl(8): separators are dots or slashes, whichever comes first; the other is then part of a name.
pub fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => {
            let swap = |letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            key.chars().map(swap).collect()
        }
        _ => key.to_owned(),
    }
}

/// Enters all namespaces of a container by its init; that of pids begins with the next fork.
pub fn join(spec: &Spec, init: i32) -> Result<()> {
    let init = match Pidfd::open(init) {
        Err(e) if e.kind() == Kind::NotFound => Err(e).context(Kind::Gone, || "the container has ended".into()),
        other => other,
    }?;
    let wanted = wanted(spec);
    match setns(&init, wanted) {
        Err(nix::Error::ESRCH) => Err(Error::new(Kind::Gone, "the container has ended")),
        other => other.attempt(|| format!("enter the namespaces {wanted:?}")),
    }?;
    if wanted.contains(CloneFlags::CLONE_NEWUSER) {
        become_root()?;
    }
    Ok(())
}

fn wanted(spec: &Spec) -> CloneFlags {
    let namespaces = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces.fold(CloneFlags::empty(), |all, namespace| all | flag(namespace.typ()))
}

fn flags(kinds: &[LinuxNamespaceType]) -> CloneFlags {
    kinds.iter().fold(CloneFlags::empty(), |all, kind| all | flag(*kind))
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
    }
}

/// Only a process outside may write the mappings: a child, forked before.
fn unshare_user(spec: &Spec) -> Result<()> {
    let own = nix::unistd::getpid();
    let (ready, tell) = std::io::pipe().attempt(|| "make a pipe".into())?;
    match sys::fork().attempt(|| "fork to map users".into())? {
        ForkResult::Child => {
            drop(tell);
            let mut byte = [0];
            let told = nix::unistd::read(&ready, &mut byte) == Ok(1);
            let code = match told.then(|| map(spec, own)) {
                Some(Ok(())) => 0,
                Some(Err(_)) => 1,
                None => 2,
            };
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            drop(ready);
            let made = nix::sched::unshare(CloneFlags::CLONE_NEWUSER).attempt(|| "make a user namespace".into());
            if made.is_ok() {
                nix::unistd::write(&tell, b"!").attempt(|| "tell the mapper".into())?;
            }
            drop(tell);
            // Our own child, not the agent's.
            let ended = waitpid(child, None).attempt(|| "wait for the mapper".into())?;
            made?;
            if !matches!(ended, WaitStatus::Exited(_, 0)) {
                return Err(Error::new(
                    Kind::Invalid,
                    "the kernel refuses linux.uidMappings or gidMappings",
                ));
            }
            become_root()
        }
    }
}

fn map(spec: &Spec, pid: Pid) -> std::io::Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (file, mappings) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
        fs::write(
            format!("/proc/{pid}/{file}"),
            mapping(mappings.as_deref().unwrap_or_default()),
        )?;
    }
    Ok(())
}

fn mapping(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

/// Root of the user namespace that was entered.
fn become_root() -> Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)
        .and_then(|()| setgroups(&[]))
        .and_then(|()| setresuid(user, user, user))
        .attempt(|| "become root of the user namespace (is user 0 mapped?)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_begins_early_only_in_namespaces_that_are_all_new() {
        let json = |more: &str| {
            let kinds = format!(r#"{{"type":"pid"}},{{"type":"ipc"}},{{"type":"uts"}},{{"type":"mount"}}{more}"#);
            let spec = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":[{kinds}]}}}}"#);
            serde_json::from_str::<Spec>(&spec).unwrap()
        };
        let (usual, user) = (json(""), json(r#",{"type":"user"}"#));
        assert_eq!(early(&usual, &[]), EARLY);
        for joined in [LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc] {
            assert!(early(&usual, &[joined]).is_empty(), "{joined}");
        }
        assert_eq!(early(&usual, &[LinuxNamespaceType::Cgroup]), EARLY);
        assert!(early(&user, &[]).is_empty());
    }

    #[test]
    fn the_namespaces_of_a_process_are_opened_by_their_type() {
        let own = i32::try_from(std::process::id()).unwrap();
        for (kind, name) in [
            (LinuxNamespaceType::Ipc, "ipc"),
            (LinuxNamespaceType::Pid, "pid"),
            (LinuxNamespaceType::Mount, "mnt"),
        ] {
            let opened = of(own, kind).unwrap();
            let inode = nix::sys::stat::fstat(&opened).unwrap().st_ino;
            let path = format!("/proc/self/ns/{name}");
            assert_eq!(inode, nix::sys::stat::stat(path.as_str()).unwrap().st_ino);
        }
        assert!(of(i32::MAX, LinuxNamespaceType::Uts).is_err());
    }

    #[test]
    fn parameters_are_found_with_dots_and_slashes() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
    }

    #[test]
    fn mappings_are_lines_for_the_kernel() {
        let json = r#"[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":100000,"size":65536}]"#;
        let mappings: Vec<LinuxIdMapping> = serde_json::from_str(json).unwrap();
        assert_eq!(mapping(&mappings), "0 1000 1\n1 100000 65536\n");
    }
}
