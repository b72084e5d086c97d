// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

/// What runs in the background lets everything else go first.
pub fn be_nice() {
    // SAFETY: the call takes numbers only. It cannot fail for ourselves and a lower priority.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
