// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Descriptors that a parent left open for us, told by number on the command line.

use std::os::fd::{OwnedFd, RawFd};

use crate::{Context, Result, sys};

/// Takes descriptor `number` over and closes it at exec. To be called once per number. Errors: it is a standard stream, or not
/// open.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    sys::inherited(number).attempt(|| format!("take over descriptor {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_open_and_standard_streams_are_refused() {
        for number in [-1, 0, 2, 100_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
