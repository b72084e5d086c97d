// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Command lines of roles that people call: `kata guest`, `kata config` and the like.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Reads `args`, which are without the program's name and the role's word; `name` has both. Errors: the exit code of who has printed
/// what is wrong (2), or the help that was asked for (0).
pub fn parse<T: Parser>(name: &str, args: &[OsString]) -> Result<T, ExitCode> {
    let name = OsString::from(name);
    T::try_parse_from(std::iter::once(&name).chain(args)).map_err(|e| {
        // Nothing is left to say it with if printing fails.
        let _ = e.print();
        ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2))
    })
}
