// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How long a device looks for the next chain before it sleeps. A driver that waits for each answer sends the next request within
//! microseconds; to be woken for it costs both sides more than that, the guest an exit, us a thread that the scheduler must bring back.

use std::thread;
use std::time::{Duration, Instant};

/// Looks between two offers of the processor to whoever else wants it.
const LOOKS: usize = 16;

/// The next chain is waited for where it came soon the last time. See the module.
#[derive(Debug, Default)]
pub struct Linger {
    most: Duration,
    /// Of this turn.
    window: Duration,
    /// When the device went to sleep.
    asleep: Option<Instant>,
}

impl Linger {
    /// Looks for at most `most`; not at all where the driver would have no processor meanwhile.
    pub fn up_to(most: Duration) -> Linger {
        let alone = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        Linger {
            most: if alone { Duration::ZERO } else { most },
            ..Linger::default()
        }
    }

    /// Also where there is one processor.
    #[cfg(test)]
    pub(crate) fn always(most: Duration) -> Linger {
        Linger {
            most,
            ..Linger::default()
        }
    }

    /// The device was woken.
    pub(crate) fn wake(&mut self) {
        let soon = self.asleep.take().is_some_and(|since| since.elapsed() <= self.most);
        self.window = if soon { self.most } else { Duration::ZERO };
    }

    /// It goes to sleep.
    pub(crate) fn sleep(&mut self) {
        self.asleep = Some(Instant::now());
    }

    /// Whether it looks for more in this turn.
    pub(crate) fn stays(&self) -> bool {
        !self.window.is_zero()
    }

    /// Looks until `came` says so, or it has looked for long enough: then false.
    pub(crate) fn until(&self, came: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < self.window {
            for _ in 0..LOOKS {
                if came() {
                    return true;
                }
                std::hint::spin_loop();
            }
            thread::yield_now();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    #[test]
    fn only_a_driver_that_was_soon_is_waited_for() {
        let mut linger = Linger::always(LONG);
        linger.wake();
        assert!(!linger.stays(), "nothing is known of it yet");
        linger.sleep();
        linger.wake();
        assert!(linger.stays());
        linger.asleep = Instant::now().checked_sub(2 * LONG);
        linger.wake();
        assert!(!linger.stays());
    }

    #[test]
    fn it_looks_until_something_came_and_not_for_ever() {
        let looks = Cell::new(0);
        let mut linger = Linger::always(LONG);
        linger.window = LONG;
        assert!(linger.until(|| looks.replace(looks.get() + 1) == 3 * LOOKS));
        linger.window = Duration::from_millis(1);
        assert!(!linger.until(|| false));
        linger.window = Duration::ZERO;
        assert!(!linger.until(|| true), "it does not even look");
    }
}
