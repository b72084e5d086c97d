// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a sandbox's machine is to be made: as the configuration says, changed by the annotations of its first container.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use config::{Config, Loaded};
use machine::template::{self, Recipe, Template};
use oci::pod::{Budget, Part};
use oci::{Bundle, Overrides};
use sandbox::{Blueprint, Measure, Patience, Queue, Size};

use super::builder::Builder;
use crate::settings;

/// For the sandbox that `bundle` begins, with whoever makes the template that it could not begin with. Errors: no guest image, no
/// hypervisor, an annotation that makes no sense.
pub fn of(settings: &Loaded, bundle: &Bundle) -> Result<(Blueprint, Option<Builder>)> {
    let wanted = settings::overrides(settings, bundle)?;
    let config = &settings.config;
    let mut plan = blueprint(settings, &wanted)?;
    plan.pod = budget(bundle)?;
    if !usual(config, &plan, &wanted) {
        return Ok((plan, None));
    }
    let size = plan.size(bundle.resources());
    let store = templates(config);
    let found = template_of(config, &plan, size);
    let builder = match found {
        Ok(Some(found)) => {
            plan.template = Some(found);
            None
        }
        Ok(None) => Some(size),
        Err(e) => {
            log::warn!("no use of a template, booting: {}", e.chain());
            Some(size)
        }
    };
    let builder = builder.filter(|_| !store.failed_lately());
    let name = plan.backend.name();
    Ok((plan, builder.and_then(|size| Builder::start(name, size))))
}

/// What the pod that `bundle` begins is to have, if it says so.
pub fn budget(bundle: &Bundle) -> Result<Option<Budget>> {
    Ok(match bundle.part()? {
        Some(Part::Sandbox(budget)) => Some(budget),
        _ => None,
    })
}

/// Whether it can begin with a template. One is made of the defaults only: that for a kernel that somebody tries out would hardly be
/// used twice.
fn usual(config: &Config, plan: &Blueprint, wanted: &Overrides) -> bool {
    wanted.kernel.is_none()
        && wanted.initrd.is_none()
        && wanted.hypervisor_path.is_none()
        && wanted.kernel_params.is_none()
        && wanted.most_vcpus.is_none()
        && wanted.most_memory_mib.is_none()
        && plan.backend.caps().templates
        && wanted.template.unwrap_or(config.template.enable)
}

/// Where templates are.
pub fn templates(config: &Config) -> template::Store {
    template::Store::at(&config.template.directory)
}

fn template_of(config: &Config, plan: &Blueprint, size: Size) -> Result<Option<Template>> {
    let recipe = plan.backend.recipe(&plan.template_spec(size))?;
    templates(config).find(&recipe.key())
}

/// Which machines that wait can serve the sandbox that `bundle` begins; none when it needs one of its own.
pub fn key_of(settings: &Loaded, bundle: &Bundle) -> Result<Option<String>> {
    let wanted = settings::overrides(settings, bundle)?;
    let mut plan = blueprint(settings, &wanted)?;
    plan.pod = budget(bundle)?;
    if !usual(&settings.config, &plan, &wanted) {
        return Ok(None);
    }
    let size = plan.size(bundle.resources());
    let template = template_of(&settings.config, &plan, size)?;
    template.map(|template| key(&template)).transpose()
}

/// The plan of a machine that is to wait, made of the defaults, and its key. Errors: `NotFound` without a template.
pub fn standby(settings: &Loaded, vcpus: Option<u32>, memory_mib: Option<u64>) -> Result<(Blueprint, Size, String)> {
    let wanted = Overrides {
        vcpus,
        memory_mib,
        ..Overrides::default()
    };
    let mut plan = blueprint(settings, &wanted)?;
    let size = plan.size(None);
    let template = template_of(&settings.config, &plan, size)?.ok_or_else(|| {
        let what = format!("no template for {} vCPUs and {} MiB", size.vcpus, size.memory_mib);
        Error::new(Kind::NotFound, what)
    })?;
    let key = key(&template)?;
    plan.template = Some(template);
    Ok((plan, size, key))
}

/// All that must be the same for a machine that waits and for whoever takes it: the template itself, this very program, the
/// namespaces that are not handed over, and what a process may do here.
fn key(template: &Template) -> Result<String> {
    let mut words = vec![template.manifest().key.clone()];
    for kind in ["pid", "user", "cgroup", "ipc", "uts", "time"] {
        let path = format!("/proc/self/ns/{kind}");
        let name = std::fs::read_link(&path).unwrap_or_default();
        words.push(name.display().to_string());
    }
    let status = std::fs::read_to_string("/proc/self/status").attempt(|| "read /proc/self/status".into())?;
    let rights = status.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        ["Uid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"].contains(&name)
    });
    words.extend(rights.map(str::to_owned));
    let manifest = template.dir().join("manifest.json");
    Ok(Recipe::new("standby", words, &[&manifest, Path::new("/proc/self/exe")])?.key())
}

/// The machine that `wanted` asks for, without a template.
pub fn blueprint(settings: &Loaded, wanted: &Overrides) -> Result<Blueprint> {
    let config = &settings.config;
    let backend = machine::choose(Some(wanted.hypervisor.as_ref().unwrap_or(&config.hypervisor.name)))?;
    let kernel = wanted.kernel.as_ref().or(config.guest.kernel.as_ref());
    let initramfs = wanted.initrd.as_ref().or(config.guest.initrd.as_ref());
    let (kernel, initramfs) = match (kernel, initramfs) {
        (Some(kernel), Some(initramfs)) => (kernel.clone(), initramfs.clone()),
        (kernel, initramfs) => {
            let image = guest_image::Store::at(&config.guest.directory).image(&config.guest.image)?;
            (
                kernel.cloned().unwrap_or(image.kernel),
                initramfs.cloned().unwrap_or(image.initramfs),
            )
        }
    };
    Ok(Blueprint {
        backend,
        binary: wanted
            .hypervisor_path
            .clone()
            .or_else(|| config.hypervisor.path.clone()),
        kernel,
        initramfs,
        // Those of the configuration first: of two that say the same, the kernel takes the last.
        kernel_params: match &wanted.kernel_params {
            None => config.guest.kernel_params.clone(),
            Some(more) => format!("{} {more}", config.guest.kernel_params).trim().to_owned(),
        },
        pod: None,
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory_mib,
        measure: measure(config, wanted),
        patience: Patience {
            hypervisor: config.hypervisor.timeout,
            agent: config.agent.timeout,
        },
        network: None,
        passt: Mutex::default(),
        deadline: deadline(settings, wanted),
        queue: queue(config),
        program: "/proc/self/exe".into(),
        template: None,
    })
}

/// Where machines wait for each other, those of all engines: beside the state of containers, which is where the configuration has it.
fn queue(config: &Config) -> Option<Queue> {
    let usual =
        || thread::available_parallelism().map_or(2, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX).max(2));
    let turns = config.machine.starts.unwrap_or_else(usual);
    let root = &config.runtime.root;
    let mut name = root.file_name()?.to_owned();
    name.push(".starts");
    (turns != 0).then(|| Queue {
        path: root.with_file_name(name),
        turns,
    })
}

/// How long the guest may take to come up.
pub fn deadline(settings: &Loaded, wanted: &Overrides) -> Duration {
    wanted.create_timeout.unwrap_or(settings.config.guest.boot_timeout)
}

/// What sizes go by beside limits.
pub fn measure(config: &Config, wanted: &Overrides) -> Measure {
    Measure {
        usual: Size {
            vcpus: config.machine.vcpus,
            memory_mib: config.machine.memory.into(),
        },
        most_vcpus: wanted.most_vcpus.or(config.machine.max_vcpus),
        most_memory_mib: wanted.most_memory_mib.or(config.machine.max_memory.map(u64::from)),
    }
}
