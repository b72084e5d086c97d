// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How large a machine must be for the limits of its container.

use oci::spec::LinuxResources;

/// Memory of a machine whose container has no limit, MiB. What a guest does not touch costs the host nothing.
const DEFAULT_MEMORY_MIB: u64 = 2048;
/// What the guest's kernel, agent and initramfs need beside the container, MiB.
const GUEST_MIB: u64 = 160;
/// The kernel keeps 64 bytes for each page of 4096.
const PAGES_SHARE: u64 = 64;
/// Machines come in multiples of this, so that few templates serve all of them, MiB.
const STEP_MIB: u64 = 256;
const MIB: u64 = 1 << 20;

/// Of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At least 1.
    pub vcpus: u32,
    /// In MiB.
    pub memory_mib: u64,
}

/// The size that `resources` ask for, on a host with `cpus` processors. A quota of one and a half processors gives two.
pub fn of(resources: Option<&LinuxResources>, cpus: u32) -> Size {
    let limit = resources
        .and_then(|all| all.memory().as_ref())
        .and_then(|memory| memory.limit())
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let memory_mib = limit.map_or(DEFAULT_MEMORY_MIB, |limit| {
        let mib = limit.div_ceil(MIB);
        let needed = mib.saturating_add(mib / PAGES_SHARE).saturating_add(GUEST_MIB);
        needed.checked_next_multiple_of(STEP_MIB).unwrap_or(needed)
    });
    let cpu = resources.and_then(|all| all.cpu().as_ref());
    let quota = cpu
        .and_then(|cpu| cpu.quota())
        .and_then(|quota| u64::try_from(quota).ok());
    // Without a period the kernel's default, 100 ms, holds.
    let period = cpu
        .and_then(|cpu| cpu.period())
        .filter(|period| *period > 0)
        .unwrap_or(100_000);
    let wanted = quota
        .filter(|quota| *quota > 0)
        .map_or(1, |quota| u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX));
    Size {
        vcpus: wanted.clamp(1, cpus.max(1)),
        memory_mib,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(json: &str) -> (u32, u64) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let size = of(Some(&resources), 8);
        (size.vcpus, size.memory_mib)
    }

    #[test]
    fn limits_are_rounded_up_and_the_guest_gets_its_own() {
        assert_eq!(
            of(None, 8),
            Size {
                vcpus: 1,
                memory_mib: DEFAULT_MEMORY_MIB
            }
        );
        assert_eq!(size(r#"{"memory":{"limit":67108864}}"#), (1, 256));
        assert_eq!(size(r#"{"memory":{"limit":1}}"#), (1, 256));
        assert_eq!(size(r#"{"memory":{"limit":536870912}}"#), (1, 768));
        assert!(size(r#"{"memory":{"limit":9223372036854775807}}"#).1 > 1 << 43);
        for none in [
            r#"{"memory":{"limit":-1}}"#,
            r#"{"memory":{"limit":0}}"#,
            r#"{"cpu":{"quota":-1}}"#,
        ] {
            assert_eq!(size(none), (1, DEFAULT_MEMORY_MIB), "{none}");
        }
        assert_eq!(size(r#"{"cpu":{"quota":150000,"period":100000}}"#).0, 2);
        assert_eq!(size(r#"{"cpu":{"quota":150000}}"#).0, 2);
        assert_eq!(
            size(r#"{"cpu":{"quota":5000000,"period":100000}}"#).0,
            8,
            "no more than the host has"
        );
        assert_eq!(size(r#"{"cpu":{"quota":1,"period":0}}"#).0, 1);
    }
}
