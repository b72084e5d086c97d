// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How large a machine must be for the limits of its containers, or of its pod, and how large it may become.

use oci::pod::Budget;
use oci::spec::LinuxResources;

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
/// Machines may grow to so much at least, if the host has it.
const AMPLE_VCPUS: u32 = 8;
const AMPLE_MEMORY_MIB: u64 = 8192;

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

/// What sizes go by beside limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Of a machine whose container has no limits.
    pub usual: Size,
    /// To how many virtual CPUs a machine may grow; none: as most need.
    pub most_vcpus: Option<u32>,
    /// To how much memory a machine may grow, MiB; none: as most need.
    pub most_memory_mib: Option<u64>,
}

impl Default for Measure {
    /// What a guest does not touch costs the host nothing.
    fn default() -> Measure {
        Measure {
            usual: Size {
                vcpus: 1,
                memory_mib: 2048,
            },
            most_vcpus: None,
            most_memory_mib: None,
        }
    }
}

impl Measure {
    /// To what a machine of `size` may grow on the host: four times as much, or as most need, if nothing else is said, but no more than
    /// the host has.
    pub fn most(&self, size: Size, host: Size) -> Size {
        let (vcpus, memory_mib) = (size.vcpus.saturating_mul(4), size.memory_mib.saturating_mul(4));
        let ample = Size {
            vcpus: self.most_vcpus.unwrap_or(vcpus.max(AMPLE_VCPUS)).min(host.vcpus),
            memory_mib: self
                .most_memory_mib
                .unwrap_or(memory_mib.max(AMPLE_MEMORY_MIB))
                .min(host.memory_mib),
        };
        size.or_more(ample)
    }
}

/// The limits of one container that a machine is measured by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    memory: Option<u64>,
    /// Microseconds of processor time in each period.
    quota: Option<u64>,
    /// The kernel's own if there is none.
    period: Option<u64>,
}

impl Limits {
    /// Of a spec.
    pub fn of(resources: Option<&LinuxResources>) -> Limits {
        let mut limits = Limits::default();
        if let Some(resources) = resources {
            limits.update(resources);
        }
        limits
    }

    /// Takes over what `changes` name; 0 names nothing, a negative number takes a limit away.
    pub fn update(&mut self, changes: &LinuxResources) {
        let set = |limit: &mut Option<u64>, change: Option<i64>| match change {
            None | Some(0) => {}
            Some(change) => *limit = u64::try_from(change).ok(),
        };
        let memory = changes.memory().as_ref();
        set(&mut self.memory, memory.and_then(|memory| memory.limit()));
        let cpu = changes.cpu().as_ref();
        set(&mut self.quota, cpu.and_then(|cpu| cpu.quota()));
        if let Some(period) = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0) {
            self.period = Some(period);
        }
    }

    /// Thousandths of a processor.
    fn processors(&self) -> u64 {
        let period = self.period.unwrap_or(PERIOD);
        self.quota
            .map_or(0, |quota| quota.saturating_mul(1000).div_ceil(period))
    }
}

/// The size that containers with these limits ask for, on a host with `cpus` processors. One and a half processors give two. Those
/// without a limit share what there is with the others, which is at least what `usual` has.
pub fn of(all: &[Limits], usual: Size, cpus: u32) -> Size {
    let limited = all
        .iter()
        .filter_map(|limits| limits.memory)
        .fold(0, u64::saturating_add);
    let free = all.iter().any(|limits| limits.memory.is_none());
    let least = if limited == 0 || free { usual.memory_mib } else { 0 };
    let wanted = all.iter().map(Limits::processors).fold(0, u64::saturating_add);
    let wanted = u32::try_from(wanted.div_ceil(1000)).unwrap_or(u32::MAX);
    let free = wanted == 0 || all.iter().any(|limits| limits.quota.is_none());
    let wanted = if free { wanted.max(usual.vcpus) } else { wanted };
    Size {
        vcpus: wanted.clamp(1, cpus.max(1)),
        memory_mib: memory(limited).max(least),
    }
}

/// The size that a pod asks for whose containers may use `budget` together. One without limits may still get containers that have none:
/// it is no smaller than a container without limits.
pub fn of_pod(budget: Budget, usual: Size, cpus: u32) -> Size {
    let counted_on = u32::try_from(budget.cpu_shares.div_ceil(SHARES)).unwrap_or(u32::MAX);
    let wanted = processors(budget.cpu_quota, budget.cpu_period)
        .max(counted_on)
        .max(usual.vcpus);
    Size {
        vcpus: wanted.clamp(1, cpus.max(1)),
        memory_mib: memory(budget.memory).max(usual.memory_mib),
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

    fn usual() -> Size {
        Measure::default().usual
    }

    fn size(json: &str) -> (u32, u64) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let size = of(&[Limits::of(Some(&resources))], usual(), 8);
        (size.vcpus, size.memory_mib)
    }

    #[test]
    fn limits_are_rounded_up_and_the_guest_gets_its_own() {
        assert_eq!(
            of(&[Limits::default()], usual(), 8),
            Size {
                vcpus: 1,
                memory_mib: 2048
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
            assert_eq!(size(none), (1, 2048), "{none}");
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
            let size = of_pod(budget, usual(), 8);
            (size.vcpus, size.memory_mib)
        };
        assert_eq!(pod(0, 0, 0), (1, 2048));
        assert_eq!(pod(120_000, 2, 64 << 20), (3, 2048));
        assert_eq!(pod(50_000, 1536, 4 << 30), (2, 4352));
        assert_eq!(pod(0, 1 << 20, 0).0, 8, "no more than the host has");
    }

    #[test]
    fn containers_add_up_and_changes_are_taken_over() {
        let limits = |json: &str| Limits::of(Some(&serde_json::from_str(json).unwrap()));
        let one = limits(r#"{"memory":{"limit":536870912},"cpu":{"quota":150000,"period":100000}}"#);
        let sum = of(&[one, one], usual(), 8);
        assert_eq!((sum.vcpus, sum.memory_mib), (3, 1280), "halves of processors add up");
        assert_eq!(of(&[one, Limits::default()], usual(), 8).memory_mib, 2048);
        let mut changed = one;
        changed.update(&serde_json::from_str(r#"{"memory":{"limit":0},"cpu":{"quota":400000}}"#).unwrap());
        assert_eq!((changed.memory, of(&[changed], usual(), 8).vcpus), (one.memory, 4));
        changed.update(&serde_json::from_str(r#"{"memory":{"limit":-1},"cpu":{"quota":-1}}"#).unwrap());
        assert_eq!(of(&[changed], usual(), 8), of(&[Limits::default()], usual(), 8));
    }

    #[test]
    fn containers_without_limits_have_what_is_usual() {
        let usual = Size {
            vcpus: 3,
            memory_mib: 512,
        };
        let limits = |json: &str| Limits::of(Some(&serde_json::from_str(json).unwrap()));
        let one = limits(r#"{"memory":{"limit":67108864},"cpu":{"quota":100000}}"#);
        let size = |all: &[Limits], cpus| {
            let size = of(all, usual, cpus);
            (size.vcpus, size.memory_mib)
        };
        assert_eq!(size(&[Limits::default()], 8), (3, 512));
        assert_eq!(size(&[one], 8), (1, 256), "limits decide");
        assert_eq!(size(&[one, Limits::default()], 8), (3, 512));
        assert_eq!(size(&[Limits::default()], 2).0, 2, "no more than the host has");
        let pod = of_pod(Budget::default(), usual, 8);
        assert_eq!((pod.vcpus, pod.memory_mib), (3, 512));
    }

    #[test]
    fn a_machine_may_grow_to_what_the_host_has() {
        let size = |vcpus, memory_mib| Size { vcpus, memory_mib };
        let plain = Measure::default();
        assert_eq!(plain.most(size(1, 2048), size(64, 262_144)), size(8, 8192));
        assert_eq!(plain.most(size(4, 4096), size(64, 262_144)), size(16, 16384));
        assert_eq!(plain.most(size(1, 2048), size(2, 4000)), size(2, 4000));
        assert_eq!(
            plain.most(size(4, 9000), size(2, 4000)),
            size(4, 9000),
            "what was asked for stays"
        );
        let told = Measure {
            most_vcpus: Some(3),
            most_memory_mib: Some(1024),
            ..plain
        };
        assert_eq!(told.most(size(1, 512), size(64, 262_144)), size(3, 1024));
        assert_eq!(told.most(size(4, 2048), size(64, 262_144)), size(4, 2048));
        assert_eq!(
            told.most(size(1, 512), size(2, 800)),
            size(2, 800),
            "no more than the host has"
        );
    }
}
