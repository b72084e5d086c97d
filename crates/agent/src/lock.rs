// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Taking a lock. A panic ends this process, so no lock is ever left poisoned.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock; to be let go before anything waits.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
