// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How large a machine must be for the limits of its container, or of its pod.

use oci::pod::Budget;
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
/// The kernel's, where none is set, microseconds.
const PERIOD: u64 = 100_000;
/// Of one processor.
const SHARES: u64 = 1024;

/// Of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At least 1.
    pub vcpus: u32,
    /// In MiB.
    pub memory_mib: u64,
}

impl Size {
    /// Large enough for this and for `other`.
    pub fn or_more(self, other: Size) -> Size {
        Size {
            vcpus: self.vcpus.max(other.vcpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
        }
    }
}

/// The size that `resources` ask for, on a host with `cpus` processors. A quota of one and a half processors gives two.
pub fn of(resources: Option<&LinuxResources>, cpus: u32) -> Size {
    let limit = resources
        .and_then(|all| all.memory().as_ref())
        .and_then(|memory| memory.limit())
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let memory_mib = limit.map_or(DEFAULT_MEMORY_MIB, memory);
    let cpu = resources.and_then(|all| all.cpu().as_ref());
    let quota = cpu
        .and_then(|cpu| cpu.quota())
        .and_then(|quota| u64::try_from(quota).ok());
    let period = cpu.and_then(|cpu| cpu.period());
    Size {
        vcpus: processors(quota.unwrap_or(0), period.unwrap_or(0)).clamp(1, cpus.max(1)),
        memory_mib,
    }
}

/// The size that a pod asks for whose containers may use `budget` together. One without limits may still get containers that have none:
/// it is no smaller than a container without limits.
pub fn of_pod(budget: Budget, cpus: u32) -> Size {
    let counted_on = u32::try_from(budget.cpu_shares.div_ceil(SHARES)).unwrap_or(u32::MAX);
    let wanted = processors(budget.cpu_quota, budget.cpu_period).max(counted_on);
    Size {
        vcpus: wanted.clamp(1, cpus.max(1)),
        memory_mib: memory(budget.memory).max(DEFAULT_MEMORY_MIB),
    }
}

/// Of a machine whose containers may use `limit` bytes, MiB.
fn memory(limit: u64) -> u64 {
    let mib = limit.div_ceil(MIB);
    let needed = mib.saturating_add(mib / PAGES_SHARE).saturating_add(GUEST_MIB);
    needed.checked_next_multiple_of(STEP_MIB).unwrap_or(needed)
}

fn processors(quota: u64, period: u64) -> u32 {
    let period = if period == 0 { PERIOD } else { period };
    u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX)
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

    #[test]
    fn a_pod_gets_what_its_containers_may_use_and_no_less_than_one_of_them() {
        let pod = |cpu_quota, cpu_shares, memory| {
            let budget = Budget {
                cpu_quota,
                cpu_period: 50_000,
                cpu_shares,
                memory,
            };
            let size = of_pod(budget, 8);
            (size.vcpus, size.memory_mib)
        };
        assert_eq!(pod(0, 0, 0), (1, DEFAULT_MEMORY_MIB));
        assert_eq!(pod(120_000, 2, 64 << 20), (3, DEFAULT_MEMORY_MIB));
        assert_eq!(pod(50_000, 1536, 4 << 30), (2, 4352));
        assert_eq!(pod(0, 1 << 20, 0).0, 8, "no more than the host has");
    }
}
