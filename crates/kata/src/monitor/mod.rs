// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! placeholder

use std::ffi::OsString;
use std::process::ExitCode;

/// `args` without the program's name and the role's word.
pub fn main(args: &[OsString]) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
