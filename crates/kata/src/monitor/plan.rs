// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a sandbox's machine is to be made: defaults of this host, changed by the annotations of its first container.

use std::sync::Mutex;
use std::time::Duration;

use base::Result;
use machine::template;
use oci::pod::Part;
use oci::{Bundle, Overrides};
use sandbox::Blueprint;

use super::builder::Builder;

/// How long a guest may take to come up; Kata's default too.
const DEADLINE: Duration = Duration::from_secs(60);

/// For the sandbox that `bundle` begins, with whoever makes the template that it could not begin with. Errors: no guest image, no
/// hypervisor, an annotation that makes no sense.
pub fn of(bundle: &Bundle) -> Result<(Blueprint, Option<Builder>)> {
    let wanted = bundle.overrides()?;
    let mut plan = blueprint(&wanted)?;
    if let Some(Part::Sandbox(budget)) = bundle.part()? {
        plan.pod = Some(budget);
    }
    // A template is made of the defaults only: one for a kernel that somebody tries out would hardly be used twice.
    let usual = wanted.kernel.is_none()
        && wanted.initrd.is_none()
        && wanted.hypervisor_path.is_none()
        && wanted.kernel_params.is_none();
    if !(usual && plan.backend.caps().templates && wanted.template.unwrap_or(true)) {
        return Ok((plan, None));
    }
    let size = plan.size(bundle.resources());
    let store = template::Store::open();
    let found = plan
        .backend
        .recipe(&plan.template_spec(size))
        .and_then(|recipe| store.find(&recipe.key()));
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
