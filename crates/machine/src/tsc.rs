// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How fast this host's time stamp counter runs. An emulated guest sees the host's counter and, on a machine without any
//! other clock, cannot measure it itself.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::sys;

/// Time between the two readings: their uncertainty is below 1 µs each, so that the result is right to 0.02 %; the guest
/// needs 0.06 %.
const INTERVAL: Duration = Duration::from_millis(5);

/// A reading of the counter and of the clock at the same moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    nanos: u64,
}

/// Kilohertz of the counter; sleeps for 5 ms. `None` where there is no such counter.
pub fn khz() -> Option<u32> {
    let start = read()?;
    std::thread::sleep(INTERVAL);
    rate(start, read()?)
}

/// Reads the clock between two readings of the counter and takes the closest of several such brackets: a preemption inside
/// one does not count.
fn read() -> Option<Reading> {
    let once = || {
        let before = sys::rdtsc()?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).ok()?;
        let width = sys::rdtsc()?.checked_sub(before)?;
        let nanos = u64::try_from(now.tv_sec()).ok()? * 1_000_000_000 + u64::try_from(now.tv_nsec()).ok()?;
        let reading = Reading {
            ticks: before + width / 2,
            nanos,
        };
        Some((width, reading))
    };
    (0..8)
        .filter_map(|_| once())
        .min_by_key(|(width, _)| *width)
        .map(|(_, reading)| reading)
}

fn rate(start: Reading, end: Reading) -> Option<u32> {
    let ticks = u128::from(end.ticks.checked_sub(start.ticks)?);
    let nanos = u128::from(end.nanos.checked_sub(start.nanos)?);
    let khz = (ticks * 1_000_000).checked_div(nanos)?;
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_ticks_per_millisecond() {
        let at = |ticks, nanos| Reading { ticks, nanos };
        assert_eq!(rate(at(1_000, 500), at(13_001_000, 5_000_500)), Some(2_600_000));
        assert_eq!(rate(at(0, 5), at(9, 5)), None, "no time has passed");
        assert_eq!(rate(at(9, 0), at(0, 5)), None, "the counter ran backwards");
        assert_eq!(rate(at(0, 0), at(0, 5)), None, "the counter stood still");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_measurements_of_one_counter_agree() {
        let (one, two) = (khz().unwrap(), khz().unwrap());
        assert!(one.abs_diff(two) < one / 500, "{one} {two}");
    }
}
