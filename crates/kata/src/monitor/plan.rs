// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a sandbox's machine is to be made: defaults of this host, changed by the annotations of its first container.

use std::time::Duration;

use base::Result;
use guest_image::Store;
use oci::Bundle;
use sandbox::Blueprint;

/// How long a guest may take to come up; Kata's default too.
const DEADLINE: Duration = Duration::from_secs(60);

/// For the sandbox that `bundle` begins. Errors: no guest image, no hypervisor, an annotation that makes no sense.
pub fn of(bundle: &Bundle) -> Result<Blueprint> {
    let wanted = bundle.overrides()?;
    let backend = machine::choose(wanted.hypervisor.as_deref())?;
    let (kernel, initramfs) = match (wanted.kernel, wanted.initrd) {
        (Some(kernel), Some(initramfs)) => (kernel, initramfs),
        (kernel, initramfs) => {
            let image = Store::open().default()?;
            (kernel.unwrap_or(image.kernel), initramfs.unwrap_or(image.initramfs))
        }
    };
    Ok(Blueprint {
        backend,
        binary: wanted.hypervisor_path,
        kernel,
        initramfs,
        kernel_params: wanted.kernel_params.unwrap_or_default(),
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory_mib,
        network: None,
        deadline: wanted.create_timeout.unwrap_or(DEADLINE),
        program: "/proc/self/exe".into(),
    })
}
