// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One host binary. Its role is its name (`kata-runtime`) or its first word; each role is one folder here, and a process
//! that needs another role re-executes itself.

mod berth;
mod cgroup;
mod containerd;
mod device;
mod doctor;
mod door;
mod guest;
mod link;
mod monitor;
mod pages;
mod porcelain;
mod runtime;
mod shim;
mod standby;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let name = Path::new(&name)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name == "kata-runtime" {
        return runtime::main(&args);
    }
    if let Some(kind) = containerd::runtime_type(name) {
        return containerd::main(&kind, &args);
    }
    let word = args.first().and_then(|word| word.to_str()).unwrap_or_default();
    let rest = args.get(1..).unwrap_or_default();
    match word {
        "runtime" => runtime::main(rest),
        "containerd-shim" => containerd::main(containerd::TYPE, rest),
        "monitor" => monitor::main(rest),
        "device" => device::main(rest),
        "shim" => shim::main(rest),
        "guest" => guest::main(rest),
        "standby" => standby::main(rest),
        "doctor" => doctor::main(rest),
        "pages" => pages::main(rest),
        _ => porcelain::main(&args),
    }
}
