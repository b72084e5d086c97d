// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How long calls took, by their names.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::family::Family;
use crate::page::Page;

/// Bounds of the buckets: 1, 2, 4 … milliseconds, up to a minute.
const BUCKETS: usize = 17;

/// How many took how long.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    /// Milliseconds.
    sum: f64,
}

impl Histogram {
    /// One more.
    pub fn note(&mut self, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds()) {
            if ms <= bound as f64 {
                *bucket = bucket.saturating_add(1);
            }
        }
        self.count = self.count.saturating_add(1);
        self.sum += ms;
    }

    /// The bound of each bucket, as text, with how many took no longer; the last one has all.
    pub fn buckets(&self) -> impl Iterator<Item = (String, u64)> {
        let bounds = bounds().map(|bound| bound.to_string());
        bounds.zip(self.buckets).chain([("+Inf".to_owned(), self.count)])
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All together, milliseconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

fn bounds() -> impl Iterator<Item = u64> {
    (0..BUCKETS).map(|bucket| 1 << bucket)
}

/// Those of many calls. Names are those of services: nobody can make others.
#[derive(Debug, Default)]
pub struct Durations(Mutex<BTreeMap<String, Histogram>>);

impl Durations {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Histogram>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has ended.
    pub fn note(&self, action: &str, took: Duration) {
        let mut all = self.all();
        match all.get_mut(action) {
            Some(histogram) => histogram.note(took),
            None => all.entry(action.to_owned()).or_default().note(took),
        }
    }

    /// Adds all of them.
    pub fn write(&self, family: &'static Family, page: &mut Page) {
        for (action, histogram) in self.all().iter() {
            page.histogram(family, &[action], histogram);
        }
    }
}
