// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What can be said about a spec before anything is made: refusals name the member and the reason.

use std::collections::HashSet;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxSeccomp, Mount, Process, Spec};

use crate::capability::Sets;
use crate::mount::{Options, propagation};
use crate::seccomp::Filter;

/// config.json as bytes. Errors: `Invalid` with the place and what is wrong there: unknown capabilities,
/// limits, actions and namespaces are, too.
pub fn parse(config: &[u8]) -> Result<Spec> {
    serde_json::from_slice(config).context(Kind::Invalid, || "read config.json".into())
}

/// A `process` object as bytes.
pub fn parse_process(process: &[u8]) -> Result<Process> {
    serde_json::from_slice(process).context(Kind::Invalid, || "read the process".into())
}

/// A container's id: a plain file name.
pub fn id(id: &str) -> Result<()> {
    base::id::check(id)
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::Invalid, what))
}

/// The whole, as the engine wrote it. Errors: `Invalid`, `Unsupported`.
pub fn spec(spec: &Spec) -> Result<()> {
    if !spec.version().starts_with("1.") {
        return invalid(format!("ociVersion {:?} is not 1.x", spec.version()));
    }
    match spec.root() {
        None => return invalid("root is missing"),
        Some(root) if root.path().as_os_str().is_empty() => return invalid("root.path is empty"),
        Some(_) => {}
    }
    match spec.process() {
        None => return invalid("process is missing"),
        Some(own) => process(own)?,
    }
    for (place, mount) in spec.mounts().iter().flatten().enumerate() {
        self::mount(mount).attempt(|| format!("mounts[{place}]"))?;
    }
    for hook in spec.hooks().iter().flat_map(|hooks| {
        let (create, start) = (
            hooks.create_container().iter().flatten(),
            hooks.start_container().iter().flatten(),
        );
        create.chain(start)
    }) {
        if !hook.path().is_absolute() {
            return invalid(format!("hooks: path {} is not absolute", hook.path().display()));
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return invalid(format!("hooks: timeout of {} is not above zero", hook.path().display()));
        }
    }
    let none = Linux::default();
    let linux = spec.linux().as_ref();
    if linux.is_none() {
        return invalid("linux.namespaces: a mount namespace is needed");
    }
    confinement(linux.unwrap_or(&none), spec)
}

/// One process, of a container or further.
pub fn process(process: &Process) -> Result<()> {
    match process.args().as_deref() {
        None | Some([]) => return invalid("process.args is empty"),
        Some(args) => no_nul("process.args", args)?,
    }
    if !process.cwd().is_absolute() {
        return invalid(format!("process.cwd {:?} is not absolute", process.cwd()));
    }
    let env = process.env().as_deref().unwrap_or_default();
    no_nul("process.env", env)?;
    if let Some(bad) = env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        return invalid(format!("process.env {bad:?} is not NAME=value"));
    }
    if process.user().umask().is_some_and(|umask| umask > 0o777) {
        return invalid("process.user.umask has more than nine bits");
    }
    if let Some(size) = process.console_size()
        && (size.height() > u64::from(u16::MAX) || size.width() > u64::from(u16::MAX))
    {
        return invalid("process.consoleSize is beyond any terminal");
    }
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return invalid(format!("process.rlimits has {} twice", limit.typ()));
        }
        if limit.soft() > limit.hard() {
            return invalid(format!(
                "process.rlimits: {} has a soft limit above the hard one",
                limit.typ()
            ));
        }
    }
    if process
        .oom_score_adj()
        .is_some_and(|score| !(-1000..=1000).contains(&score))
    {
        return invalid("process.oomScoreAdj is not within -1000 to 1000");
    }
    if process
        .io_priority()
        .as_ref()
        .is_some_and(|io| !(0..=7).contains(&io.priority()))
    {
        return invalid("process.ioPriority.priority is not within 0 to 7");
    }
    Sets::new(process.capabilities().as_ref(), &|_| {}).map(drop)
}

fn no_nul(what: &str, texts: &[String]) -> Result<()> {
    match texts.iter().find(|text| text.contains('\0')) {
        Some(bad) => invalid(format!("{what} {bad:?} has a NUL")),
        None => Ok(()),
    }
}

/// What may be bound over a file of /proc: substitutes that show the container's own numbers.
const OVER_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

fn mount(mount: &Mount) -> Result<()> {
    let destination = mount.destination();
    if !destination.is_absolute() {
        return invalid(format!("destination {destination:?} is not absolute"));
    }
    let mapped = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|mappings| !mappings.is_empty());
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        let what = "uidMappings and gidMappings: the ids of a shared file system cannot be mapped";
        return Err(Error::new(Kind::Unsupported, what));
    }
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let bind = options.binds(mount.typ().as_deref()).is_some();
    let plain: std::path::PathBuf = destination.components().collect();
    if plain.starts_with("/proc") && plain != Path::new("/proc") && !OVER_PROC.iter().any(|own| plain == Path::new(own))
    {
        return invalid(format!("destination {destination:?} is inside /proc"));
    }
    if plain == Path::new("/proc") && !bind && mount.typ().as_deref() != Some("proc") {
        return invalid("destination /proc is for a file system of type proc");
    }
    if !bind && mount.typ().is_none() {
        return invalid("it has no type and is no bind mount");
    }
    if options.copy_up && mount.typ().as_deref() != Some("tmpfs") {
        return invalid("option tmpcopyup is for tmpfs");
    }
    Ok(())
}

fn confinement(linux: &Linux, spec: &Spec) -> Result<()> {
    let mut namespaces = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !namespaces.insert(namespace.typ()) {
            return invalid(format!("linux.namespaces has {} twice", namespace.typ()));
        }
    }
    let has = |kind| namespaces.contains(&kind);
    if !has(LinuxNamespaceType::Mount) {
        return invalid("linux.namespaces: a mount namespace is needed");
    }
    let mappings = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|mappings| !mappings.is_empty());
    let mapped = (mappings(linux.uid_mappings()), mappings(linux.gid_mappings()));
    // One that is joined has its mappings; those that the spec repeats are its.
    let joined = linux.namespaces().iter().flatten().any(|namespace| {
        let path = namespace.path().as_ref();
        namespace.typ() == LinuxNamespaceType::User && path.is_some_and(|path| !path.as_os_str().is_empty())
    });
    match (has(LinuxNamespaceType::User), mapped) {
        (true, _) if joined => {}
        (true, (true, true)) | (false, (false, false)) => {}
        (true, _) => return invalid("linux.uidMappings and gidMappings are needed for a user namespace"),
        (false, _) => return invalid("linux.uidMappings and gidMappings need a user namespace"),
    }
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if (named(spec.hostname()) || named(spec.domainname())) && !has(LinuxNamespaceType::Uts) {
        return invalid("hostname and domainname need a uts namespace");
    }
    for key in linux.sysctl().iter().flat_map(|all| all.keys()) {
        sysctl(key, &has, named(spec.hostname()))?;
    }
    for clock in linux.time_offsets().iter().flat_map(|all| all.keys()) {
        if !has(LinuxNamespaceType::Time) {
            return invalid("linux.timeOffsets needs a time namespace");
        }
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return invalid(format!("linux.timeOffsets: there is no clock {clock:?}"));
        }
    }
    let paths = linux
        .masked_paths()
        .iter()
        .flatten()
        .chain(linux.readonly_paths().iter().flatten());
    if let Some(bad) = paths.into_iter().find(|path| !Path::new(path).is_absolute()) {
        return invalid(format!("linux.maskedPaths and readonlyPaths: {bad:?} is not absolute"));
    }
    if let Some(bad) = linux
        .devices()
        .iter()
        .flatten()
        .find(|device| !device.path().is_absolute())
    {
        return invalid(format!("linux.devices: path {:?} is not absolute", bad.path()));
    }
    if let Some(word) = linux.rootfs_propagation().as_ref().filter(|word| !word.is_empty())
        && propagation(word).is_none()
    {
        return invalid(format!("linux.rootfsPropagation: {word:?} is unknown"));
    }
    let flags = linux
        .personality()
        .as_ref()
        .and_then(|personality| personality.flags().as_ref());
    if flags.is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::new(
            Kind::Unsupported,
            "linux.personality.flags: none are defined",
        ));
    }
    linux.seccomp().as_ref().map_or(Ok(()), seccomp)
}

fn seccomp(seccomp: &LinuxSeccomp) -> Result<()> {
    if let Some(rule) = seccomp.syscalls().iter().flatten().find(|rule| rule.names().is_empty()) {
        return invalid(format!(
            "linux.seccomp: a rule with action {} names no call",
            rule.action()
        ));
    }
    Filter::new(seccomp).attempt(|| "linux.seccomp".into()).map(drop)
}

/// Only parameters that a namespace of the container's own has.
fn sysctl(key: &str, has: &dyn Fn(LinuxNamespaceType) -> bool, named: bool) -> Result<()> {
    const OF_IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let path = crate::namespace::sysctl_path(key);
    if path
        .split('/')
        .any(|part| part.is_empty() || part == ".." || part == ".")
    {
        return invalid(format!("linux.sysctl: {key:?} is no parameter"));
    }
    let (kind, name) = match path.as_str() {
        path if OF_IPC.contains(&path) || path.starts_with("fs/mqueue/") => (LinuxNamespaceType::Ipc, "ipc"),
        "kernel/hostname" if named => return invalid("linux.sysctl: kernel.hostname conflicts with hostname"),
        "kernel/hostname" | "kernel/domainname" => (LinuxNamespaceType::Uts, "uts"),
        path if path.starts_with("net/") => (LinuxNamespaceType::Network, "network"),
        _ => return invalid(format!("linux.sysctl: {key} is not in a separate kernel namespace")),
    };
    if has(kind) {
        Ok(())
    } else {
        invalid(format!("linux.sysctl: {key} needs a {name} namespace"))
    }
}
