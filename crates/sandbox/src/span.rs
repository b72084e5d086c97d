// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How long each step of a start took.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// As many steps are kept: those of the machine's start and its first container. A pod may have any number of containers after it.
const MOST: usize = 32;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// From the start of the monitor to the beginning of the step, milliseconds.
    pub at: f64,
    /// How long it took, milliseconds.
    pub ms: f64,
}

/// The host's CLOCK_MONOTONIC, milliseconds: the same in all processes.
fn monotonic() -> f64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0.0, |now| ms(Duration::from(now)))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The steps so far, in the order of their ends.
#[derive(Debug, Clone)]
pub struct Spans {
    origin: Instant,
    begun: f64,
    steps: Vec<Span>,
}

impl Spans {
    /// None yet; times count from `origin`.
    pub fn since(origin: Instant) -> Spans {
        Spans {
            origin,
            begun: monotonic() - ms(origin.elapsed()),
            steps: Vec::new(),
        }
    }

    /// When times begin to count: the host's CLOCK_MONOTONIC, milliseconds.
    pub fn begun(&self) -> f64 {
        self.begun
    }

    /// A step that began at `begin` has just ended.
    pub fn end(&mut self, name: &str, begin: Instant) {
        let step = Span {
            name: name.to_owned(),
            at: ms(begin.saturating_duration_since(self.origin)),
            ms: ms(begin.elapsed()),
        };
        log::info!("{name}: {:.1} ms", step.ms);
        self.keep(step);
    }

    fn keep(&mut self, step: Span) {
        if self.steps.len() < MOST {
            self.steps.push(step);
        }
    }

    /// Takes over the steps of `others` that are not here yet: both went on from the same ones.
    pub fn join(&mut self, others: &Spans) {
        for step in &others.steps {
            if !self.steps.contains(step) {
                self.keep(step.clone());
            }
        }
    }

    /// All of them.
    pub fn steps(&self) -> &[Span] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_the_order_of_their_ends() {
        let mut spans = Spans::since(Instant::now());
        let outer = Instant::now();
        spans.end("inner", Instant::now());
        spans.end("outer", outer);
        let names: Vec<&str> = spans.steps().iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["inner", "outer"]);
        assert!(spans.steps()[1].ms >= spans.steps()[0].ms && spans.steps()[1].at <= spans.steps()[0].at);
    }

    #[test]
    fn a_pod_that_lives_long_keeps_no_more_of_them() {
        let mut spans = Spans::since(Instant::now());
        for _ in 0..2 * MOST {
            spans.end("container", Instant::now());
        }
        let mut other = Spans::since(Instant::now());
        other.end("storage", Instant::now());
        spans.join(&other);
        assert_eq!(spans.steps().len(), MOST);
    }
}
