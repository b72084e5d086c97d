// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata config check`: what the language, the keys and this host have against a configuration.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base::Result;
use clap::Args;
use config::fault::Place;
use config::{Fault, Loaded, Selection, layers};

use super::{Choice, read};
use crate::runtime::print;

#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 if nothing is wrong, 1 if something is.")]
pub struct Check {
    /// A file in place of the configuration in force; with its drop-ins
    file: Option<PathBuf>,
}

pub fn run(choice: &Choice, check: &Check) -> Result<ExitCode> {
    let selection = choice.selection()?.with(check.file.clone(), None)?;
    let faults = faults(&selection);
    if faults.is_empty() {
        let text = match &selection.file {
            Some(file) => format!("{}: nothing is wrong\n", file.display()),
            None if Path::new(layers::USUAL).exists() => format!("{}: nothing is wrong\n", layers::USUAL),
            None => format!("there is no {}: nothing is wrong\n", layers::USUAL),
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    for fault in faults {
        eprintln!("{fault}");
    }
    Ok(ExitCode::FAILURE)
}

/// Without a profile and with each.
fn faults(selection: &Selection) -> Vec<Fault> {
    let loaded = match read(selection) {
        Ok(loaded) => loaded,
        Err(faults) => return faults.0,
    };
    let mut all = on_this_host(&loaded);
    for profile in &loaded.profiles {
        let with = Selection {
            profile: Some(profile.clone()),
            ..selection.clone()
        };
        match read(&with) {
            Ok(loaded) => all.extend(on_this_host(&loaded)),
            Err(faults) => all.extend(faults.0),
        }
    }
    let mut told: Vec<Fault> = Vec::new();
    for fault in all {
        if !told.contains(&fault) {
            told.push(fault);
        }
    }
    told
}

/// What a value names must be here.
fn on_this_host(loaded: &Loaded) -> Vec<Fault> {
    let config = &loaded.config;
    let mut faults = Vec::new();
    let mut fault = |key: &str, what: String, remedy: String| {
        let place = match loaded.origins.get(key) {
            Some(config::Origin::File { place, .. }) => place.clone(),
            Some(other) => Place::of(other.to_string()),
            None => Place::of("default"),
        };
        faults.push(Fault {
            place,
            what: format!("{key}: {what}"),
            remedy,
        });
    };
    let known = machine::registry::names();
    if !known.contains(&config.hypervisor.name.as_str()) {
        let what = format!("unknown hypervisor {:?}", config.hypervisor.name);
        fault("hypervisor.name", what, format!("there are {}", known.join(", ")));
    }
    let files = [
        ("hypervisor.path", &config.hypervisor.path, true),
        ("guest.kernel", &config.guest.kernel, false),
        ("guest.initrd", &config.guest.initrd, false),
        ("guest.agent", &config.guest.agent, true),
        ("run.passt", &config.run.passt, true),
    ];
    for (key, path, program) in files {
        if let Some(why) = path.as_deref().and_then(|path| unusable(path, program)) {
            fault(key, why, "name one that is there, or none for the usual one".into());
        }
    }
    let (vcpus, most) = (config.machine.vcpus, config.machine.max_vcpus);
    if let Some(most) = most.filter(|most| *most < vcpus) {
        let what = format!("{most} is less than machine.vcpus, {vcpus}");
        fault(
            "machine.max_vcpus",
            what,
            "machines do not get smaller than they begin".into(),
        );
    }
    let (memory, most) = (config.machine.memory, config.machine.max_memory);
    if let Some(most) = most.filter(|most| *most < memory) {
        let what = format!("{most} is less than machine.memory, {memory}");
        fault(
            "machine.max_memory",
            what,
            "machines do not get smaller than they begin".into(),
        );
    }
    faults
}

fn unusable(path: &Path, program: bool) -> Option<String> {
    match std::fs::metadata(path) {
        Err(e) => Some(format!("{}: {e}", path.display())),
        Ok(found) if !found.is_file() => Some(format!("{} is not a file", path.display())),
        Ok(found) if program && found.permissions().mode() & 0o111 == 0 => {
            Some(format!("{} cannot be executed", path.display()))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_told_with_its_place_in_each_profile() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k.toml");
        let text = "[hypervisor]\nname = \"xen\"\n[profile.a.hypervisor]\nname = \"qemu\"\npath = \"/no/such\"\n\
                    [profile.b]\nmachine.memory = 4096\nmachine.max_memory = 1024\nrun.passt = \"/etc/passwd\"\n";
        std::fs::write(&file, text).unwrap();
        let selection = Selection::default().with(Some(file.clone()), None).unwrap();
        let told: Vec<String> = faults(&selection).iter().map(ToString::to_string).collect();
        let at = file.display();
        for words in [
            format!("{at}:2:1: hypervisor.name: unknown hypervisor \"xen\" (there are auto, qemu, qemu-kvm, qemu-tcg)"),
            format!("{at}:5:1: hypervisor.path: /no/such: No such file"),
            format!("{at}:8:9: machine.max_memory: 1024 is less than machine.memory, 4096"),
            format!("{at}:9:5: run.passt: /etc/passwd cannot be executed"),
        ] {
            assert!(told.iter().any(|line| line.contains(&words)), "{words}: {told:#?}");
        }
        assert_eq!(told.len(), 4, "{told:#?}");
        std::fs::write(&file, "").unwrap();
        assert!(faults(&selection).is_empty());
    }
}
