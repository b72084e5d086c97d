// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a sandbox's machine is to be made: defaults of this host, changed by the annotations of its first container.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use machine::template::{self, Recipe, Template};
use oci::pod::{Budget, Part};
use oci::{Bundle, Overrides};
use sandbox::{Blueprint, Size};

use super::builder::Builder;

/// How long a guest may take to come up; Kata's default too.
const DEADLINE: Duration = Duration::from_secs(60);

/// For the sandbox that `bundle` begins, with whoever makes the template that it could not begin with. Errors: no guest image, no
/// hypervisor, an annotation that makes no sense.
pub fn of(bundle: &Bundle) -> Result<(Blueprint, Option<Builder>)> {
    let wanted = bundle.overrides()?;
    let mut plan = blueprint(&wanted)?;
    plan.pod = budget(bundle)?;
    if !usual(&plan, &wanted) {
        return Ok((plan, None));
    }
    let size = plan.size(bundle.resources());
    let store = template::Store::open();
    let found = template_of(&plan, size);
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
fn usual(plan: &Blueprint, wanted: &Overrides) -> bool {
    wanted.kernel.is_none()
        && wanted.initrd.is_none()
        && wanted.hypervisor_path.is_none()
        && wanted.kernel_params.is_none()
        && plan.backend.caps().templates
        && wanted.template.unwrap_or(true)
}

fn template_of(plan: &Blueprint, size: Size) -> Result<Option<Template>> {
    let recipe = plan.backend.recipe(&plan.template_spec(size))?;
    template::Store::open().find(&recipe.key())
}

/// Which machines that wait can serve the sandbox that `bundle` begins; none when it needs one of its own.
pub fn key_of(bundle: &Bundle) -> Result<Option<String>> {
    let wanted = bundle.overrides()?;
    let mut plan = blueprint(&wanted)?;
    plan.pod = budget(bundle)?;
    if !usual(&plan, &wanted) {
        return Ok(None);
    }
    let size = plan.size(bundle.resources());
    template_of(&plan, size)?.map(|template| key(&template)).transpose()
}

/// The plan of a machine that is to wait, made of the defaults, and its key. Errors: `NotFound` without a template.
pub fn standby(vcpus: Option<u32>, memory_mib: Option<u64>) -> Result<(Blueprint, Size, String)> {
    let wanted = Overrides {
        vcpus,
        memory_mib,
        ..Overrides::default()
    };
    let mut plan = blueprint(&wanted)?;
    let size = plan.size(None);
    let template = template_of(&plan, size)?.ok_or_else(|| {
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
pub fn blueprint(wanted: &Overrides) -> Result<Blueprint> {
    let backend = machine::choose(wanted.hypervisor.as_deref())?;
    let (kernel, initramfs) = match (&wanted.kernel, &wanted.initrd) {
        (Some(kernel), Some(initramfs)) => (kernel.clone(), initramfs.clone()),
        (kernel, initramfs) => {
            let image = guest_image::Store::open().default()?;
            (
                kernel.clone().unwrap_or(image.kernel),
                initramfs.clone().unwrap_or(image.initramfs),
            )
        }
    };
    Ok(Blueprint {
        backend,
        binary: wanted.hypervisor_path.clone(),
        kernel,
        initramfs,
        kernel_params: wanted.kernel_params.clone().unwrap_or_default(),
        pod: None,
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory_mib,
        network: None,
        passt: Mutex::default(),
        deadline: wanted.create_timeout.unwrap_or(DEADLINE),
        program: "/proc/self/exe".into(),
        template: None,
    })
}
