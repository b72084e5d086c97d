// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One host binary. Its role is its name (`kata-runtime`) or its first word; each role is one folder here, and a process
//! that needs another role re-executes itself. A shim's words are those of the process that it stands for: it is told from the others
//! by its environment.

mod berth;
mod cgroup;
mod containerd;
mod device;
mod doctor;
mod door;
mod guest;
mod line;
mod link;
mod monitor;
mod node;
mod pages;
mod porcelain;
mod runtime;
mod settings;
mod shim;
mod standby;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use settings::Choice;

fn main() -> ExitCode {
    if let Some(code) = shim::main() {
        return code;
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let name = Path::new(&name)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if let Some(profile) = runtime::profile(name) {
        return runtime::main(profile, &args);
    }
    // Kata's name for it.
    if name == "kata-monitor" {
        return node::main(&Choice::default(), &args);
    }
    if let Some(kind) = containerd::runtime_type(name) {
        return containerd::main(&kind, &args);
    }
    let (choice, words) = Choice::leading(&args);
    let word = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    match word {
        "runtime" => runtime::main(choice, rest),
        "containerd-shim" => containerd::main(containerd::TYPE, rest),
        // That of one sandbox is started with a lease, by us only.
        "monitor" if monitor::leased(rest) => monitor::main(rest),
        "monitor" => node::main(&choice, rest),
        "device" => device::main(rest),
        "guest" => guest::main(&choice, rest),
        "standby" => standby::main(&choice, rest),
        "doctor" => doctor::main(&choice, rest),
        "config" => settings::main(&choice, rest),
        "pages" => pages::main(rest),
        _ => porcelain::main(&args),
    }
}
