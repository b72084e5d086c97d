// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Processes of the host, by what they were started with.

use std::fs;
use std::path::PathBuf;

/// All pids.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.collect()
}

/// The command line of a process. That of a shim is the one of the process that it stands for: it begins with `kata shim` and the
/// variables that say of what, here.
pub fn line(pid: i32) -> String {
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let line = read("cmdline");
    if read("comm").trim_end() != "kata-shim" {
        return line;
    }
    let environment = read("environ");
    let told: Vec<&str> = environment
        .split(' ')
        .filter(|word| word.starts_with("KATA_SHIM_"))
        .collect();
    format!("kata shim {} {line}", told.join(" "))
}

/// Whether a process carries `marker` in its command line or in its directory.
pub fn carries(pid: i32, marker: &str) -> bool {
    line(pid).contains(marker) || cwd(pid).to_string_lossy().contains(marker)
}

/// The directory of a process.
pub fn cwd(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default()
}
