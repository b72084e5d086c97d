// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors by number, and the allocator's settings.

/// One arena for all threads, given back early: many such processes share a host.
pub fn spare_memory() {
    // SAFETY: mallopt takes numbers only; no other thread runs yet. A refusal costs memory, no more.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}
