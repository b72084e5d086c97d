// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors that arrive as files.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

pub fn eventfd(file: File) -> EventFd {
    // SAFETY: `file` owns the descriptor and gives it up here.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}
