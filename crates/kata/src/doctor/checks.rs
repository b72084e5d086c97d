// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `kata doctor` looks at. Each check is a function from facts to a finding.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base::{Error, Kind, Result};
use config::Loaded;
use guest_image::{GuestImage, Source, Store};
use machine::host::{Cgroups, Host, Mode};
use machine::qemu::binary::{self, Version};
use machine::tsc;
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use super::report::{Finding, Report, State};
use crate::settings::Choice;
use crate::standby::pool::Pool;

/// Where images and guests are kept.
const STORE: &str = "/var/lib/kata";
/// The distribution's package of a small kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Less memory than a guest with a small container takes, MiB.
const MEMORY_LOW: u64 = 512;
/// Less disk than some images take, MiB.
const DISK_LOW: u64 = 2048;

/// Looks at everything.
pub fn all(choice: &Choice) -> Report {
    let host = Host::probe();
    let loaded = choice.load();
    let configuration = configuration(&loaded);
    let settings = loaded.unwrap_or_default();
    let config = &settings.config;
    let chosen = machine::choose(Some(&config.hypervisor.name));
    let guests = Store::at(&config.guest.directory);
    let image = guests.image(&config.guest.image);
    let emulated = chosen.as_ref().is_ok_and(|backend| !backend.caps().accelerated);
    let mut findings = vec![
        root(Uid::effective().is_root()),
        kvm(&host),
        nested(&host),
        configuration,
        qemu(
            config
                .hypervisor
                .path
                .clone()
                .map_or_else(binary::find, Ok)
                .and_then(|path| binary::version(&path).map(|version| (path, version))),
        ),
        firmware(binary::firmware()),
    ];
    if emulated {
        findings.push(clock(tsc::khz()));
    }
    findings.push(guest_image(&image));
    findings.extend(standby(&Pool::of(config)).ok().flatten());
    if image.is_err() {
        findings.push(kernel(&installed_kernels(), packaged_kernel().as_deref()));
    }
    findings.extend([
        memory(&host),
        disk(&guests, free_mib(Path::new(STORE))),
        cgroups(&host.cgroups),
        user_namespaces(host.user_namespaces),
        tun(host.tun),
        vhost(&host),
    ]);
    let hypervisor = chosen.map_or_else(|_| "none".into(), |backend| backend.name().to_owned());
    Report { hypervisor, findings }
}

/// Nothing where nobody has asked for machines that wait.
fn configuration(loaded: &Result<Arc<Loaded>>) -> Finding {
    match loaded {
        Ok(loaded) if loaded.files.is_empty() => Finding::new("configuration", State::Ok, "defaults"),
        Ok(loaded) => {
            let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
            Finding::new("configuration", State::Ok, files.join(", "))
        }
        Err(e) => Finding::new("configuration", State::Fail, e.chain()).remedy("kata config check"),
    }
}

fn standby(pool: &Pool) -> Result<Option<Finding>> {
    let names = pool.names()?;
    let ready = names.iter().filter(|name| pool.about(name).is_some()).count();
    Ok(match pool.keeper()? {
        Some(keeper) => {
            let found = format!(
                "{ready} of {} machines wait, kept by process {}",
                keeper.count, keeper.pid
            );
            Some(Finding::new("standby", State::Ok, found))
        }
        None if names.is_empty() => None,
        None => {
            let found = format!("{} holds machines, but their keeper has ended", pool.dir().display());
            Some(Finding::new("standby", State::Warn, found).remedy("kata standby stop"))
        }
    })
}

fn root(is_root: bool) -> Finding {
    if is_root {
        Finding::new("user", State::Ok, "root")
    } else {
        Finding::new("user", State::Fail, "not root: mounts and devices need it").remedy("run as root")
    }
}

fn kvm(host: &Host) -> Finding {
    if host.kvm.usable {
        return Finding::new("kvm", State::Ok, host.kvm.reason.clone());
    }
    let found = format!(
        "{}; machines are emulated in software, several times slower",
        host.kvm.reason
    );
    Finding::new("kvm", State::Warn, found)
}

fn nested(host: &Host) -> Finding {
    let found = match (host.kvm.usable, host.kvm.nested) {
        (true, true) => "guests can have KVM themselves",
        (true, false) => "guests cannot have KVM themselves",
        (false, _) => "no: there is no KVM to nest",
    };
    Finding::new("nested", State::Ok, found)
}

fn qemu(found: Result<(PathBuf, Version)>) -> Finding {
    match found {
        Ok((path, version)) => {
            let Version { major, minor } = version;
            let text = format!("{} {major}.{minor}", path.display());
            if version < binary::OLDEST {
                let oldest = binary::OLDEST;
                let text = format!("{text}; older than {}.{}, not tried", oldest.major, oldest.minor);
                return Finding::new("qemu", State::Warn, text).remedy("install a newer QEMU");
            }
            Finding::new("qemu", State::Ok, text)
        }
        Err(e) if e.kind() == Kind::NotFound => {
            Finding::new("qemu", State::Fail, e.to_string()).remedy(binary::PACKAGES)
        }
        Err(e) => Finding::new("qemu", State::Fail, e.chain()).remedy("reinstall it"),
    }
}

fn firmware(found: Option<PathBuf>) -> Finding {
    match found {
        Some(path) => Finding::new("firmware", State::Ok, path.display().to_string()),
        None => Finding::new(
            "firmware",
            State::Fail,
            format!("{} is not on this host", binary::FIRMWARE),
        )
        .remedy("apt-get install qemu-system-data"),
    }
}

fn clock(khz: Option<u32>) -> Finding {
    match khz {
        Some(khz) => Finding::new("clock", State::Ok, format!("time stamp counter at {khz} kHz")),
        None => Finding::new(
            "clock",
            State::Fail,
            "no time stamp counter: x86 machines cannot be emulated here",
        ),
    }
}

fn guest_image(image: &Result<GuestImage>) -> Finding {
    match image {
        Ok(image) => {
            let found = format!("Linux {} in {}", image.manifest.release, image.dir.display());
            Finding::new("guest image", State::Ok, found)
        }
        Err(e) => {
            let remedy = "kata guest build";
            let found = e.chain();
            let found = found.strip_suffix(&format!(": run `{remedy}`")).unwrap_or(&found);
            Finding::new("guest image", State::Fail, found).remedy(remedy)
        }
    }
}

/// What a guest image would be built from.
fn kernel(installed: &[PathBuf], packaged: Option<&str>) -> Finding {
    match (installed.first(), packaged) {
        (Some(image), _) => Finding::new("kernel", State::Ok, format!("{} is installed", image.display())),
        (None, Some(version)) => {
            let found = format!("package {KERNEL_PACKAGE} {version} can be fetched");
            Finding::new("kernel", State::Ok, found)
        }
        (None, None) => Finding::new("kernel", State::Warn, "neither installed nor known to apt").remedy(format!(
            "apt-get update && apt-get install {KERNEL_PACKAGE}, or give one to kata guest build"
        )),
    }
}

fn installed_kernels() -> Vec<PathBuf> {
    let image = |source| match source {
        Source::Tree { image, .. } => Some(image),
        Source::Packages(files) => files.into_iter().next(),
        Source::Own(dir) => Some(dir),
    };
    Source::installed(Path::new("/"))
        .into_iter()
        .filter_map(image)
        .collect()
}

/// The version that apt would install.
fn packaged_kernel() -> Option<String> {
    let mut ask = Command::new("apt-cache");
    ask.args(["policy", KERNEL_PACKAGE])
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let output = ask.output().ok()?;
    candidate(&String::from_utf8_lossy(&output.stdout))
}

fn candidate(policy: &str) -> Option<String> {
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

fn memory(host: &Host) -> Finding {
    let found = format!(
        "{} MiB, {} MiB available; {} processors",
        host.memory_mib, host.available_mib, host.cpus
    );
    if host.available_mib < MEMORY_LOW {
        return Finding::new("memory", State::Warn, found).remedy(format!("{MEMORY_LOW} MiB are little for a guest"));
    }
    Finding::new("memory", State::Ok, found)
}

fn disk(store: &Store, free: Result<u64>) -> Finding {
    let place = if store.dir().starts_with(STORE) {
        ""
    } else {
        ", guest images elsewhere"
    };
    match free {
        Ok(free) if free < DISK_LOW => {
            let found = format!("{free} MiB free for {STORE}{place}");
            Finding::new("disk", State::Warn, found).remedy("make room: images take some hundred MiB each")
        }
        Ok(free) => Finding::new("disk", State::Ok, format!("{free} MiB free for {STORE}{place}")),
        Err(e) => Finding::new("disk", State::Warn, e.chain()),
    }
}

/// Free space of the file system that holds `path`, or will.
fn free_mib(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let failed = |e: nix::Error| Error::new(Kind::Io, format!("look at the disk of {}", there.display())).because(e);
    let disk = statvfs(there).map_err(failed)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()) >> 20)
}

fn cgroups(found: &Cgroups) -> Finding {
    let mode = match found.mode {
        Mode::None => {
            return Finding::new(
                "cgroups",
                State::Warn,
                "none mounted: machines are not limited on the host",
            );
        }
        Mode::V1 => "version 1",
        Mode::V2 => "version 2",
        Mode::Hybrid => "hybrid",
    };
    let text = format!("{mode}: {}", found.controllers.join(" "));
    let lacking: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|wanted| found.controllers.iter().all(|controller| controller != wanted))
        .collect();
    if lacking.is_empty() {
        return Finding::new("cgroups", State::Ok, text);
    }
    Finding::new(
        "cgroups",
        State::Warn,
        format!("{text}; without {}", lacking.join(", ")),
    )
}

fn user_namespaces(possible: bool) -> Finding {
    let found = if possible {
        "yes"
    } else {
        "no: only guests can have them"
    };
    Finding::new("user namespaces", State::Ok, found)
}

fn tun(exists: bool) -> Finding {
    if exists {
        Finding::new("tun", State::Ok, "/dev/net/tun")
    } else {
        Finding::new("tun", State::Warn, "no /dev/net/tun: guests have no network").remedy("modprobe tun")
    }
}

fn vhost(host: &Host) -> Finding {
    let devices = [("vhost-net", host.vhost_net), ("vhost-vsock", host.vhost_vsock)];
    let there: Vec<&str> = devices
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    let found = if there.is_empty() {
        "none".into()
    } else {
        there.join(", ")
    };
    Finding::new(
        "vhost",
        State::Ok,
        format!("{found} (not needed: devices are served by kata itself)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_qemu_fails_and_names_the_package() {
        let missing = Error::new(Kind::NotFound, "qemu is not on this host");
        let finding = qemu(Err(missing));
        assert_eq!(finding.state, State::Fail);
        assert!(finding.remedy.unwrap().contains("qemu-system-x86"));
        let old = Version { major: 6, minor: 2 };
        assert_eq!(qemu(Ok(("/q".into(), old))).state, State::Warn);
        assert_eq!(qemu(Ok(("/q".into(), binary::OLDEST))).state, State::Ok);
    }

    #[test]
    fn the_candidate_of_apt_is_found() {
        let policy = "linux-image-cloud-amd64:\n  Installed: (none)\n  Candidate: 6.1.192-2\n";
        assert_eq!(candidate(policy).as_deref(), Some("6.1.192-2"));
        assert_eq!(candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
        assert_eq!(kernel(&[], None).state, State::Warn);
    }

    #[test]
    fn a_missing_guest_image_says_once_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let finding = guest_image(&Store::at(dir.path().join("none")).default());
        assert_eq!(finding.state, State::Fail);
        assert_eq!(finding.remedy.as_deref(), Some("kata guest build"));
        assert!(!finding.found.contains("kata guest build"), "{}", finding.found);
    }

    #[test]
    fn lacking_controllers_are_named() {
        let of = |controllers: &[&str]| {
            let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
            cgroups(&Cgroups {
                mode: Mode::V2,
                controllers,
            })
        };
        assert_eq!(of(&["cpu", "memory", "pids"]).state, State::Ok);
        let finding = of(&["memory"]);
        assert_eq!(finding.state, State::Warn);
        assert!(finding.found.ends_with("without cpu, pids"), "{}", finding.found);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_room_too() {
        assert!(free_mib(Path::new("/no/such/directory")).unwrap() > 0);
    }

    #[test]
    fn this_machine_is_described_whole() {
        let report = all(&Choice::default());
        let names: Vec<&str> = report.findings.iter().map(|finding| finding.name).collect();
        for name in ["kvm", "qemu", "guest image", "cgroups", "tun", "user namespaces"] {
            assert!(names.contains(&name), "{name}");
        }
        assert_ne!(report.hypervisor, "none");
    }
}
