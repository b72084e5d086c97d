// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! fio, where the host has it: its program and libraries in a directory, run by their own loader, so that any root will do.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Name, what is done, block size, bytes of it. The file has 64 MiB.
const JOBS: [(&str, &str, &str, &str); 4] = [
    ("fio-write", "write", "1M", "64M"),
    ("fio-read", "read", "1M", "64M"),
    ("fio-randread", "randread", "4k", "8M"),
    ("fio-randwrite", "randwrite", "4k", "8M"),
];
/// Fields of its terse output (version 3): KiB/s of reading and of writing.
const READ: usize = 6;
const WRITE: usize = 47;

/// `job MB/s` lines of what `tool`, the directory, does in `dir`.
pub fn all(tool: &Path, dir: &Path) -> io::Result<String> {
    let mut told = String::new();
    for (name, what, block, bytes) in JOBS {
        let mut command = Command::new(tool.join("loader"));
        command.arg("--library-path").arg(tool).arg(tool.join("fio"));
        command.args([
            "--minimal",
            "--thread",
            "--name=job",
            "--ioengine=psync",
            "--size=64M",
            "--end_fsync=1",
        ]);
        command.arg(format!("--filename={}", dir.join("fio-file").display()));
        command.args([
            format!("--rw={what}"),
            format!("--bs={block}"),
            format!("--io_size={bytes}"),
        ]);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let field = if what.ends_with("read") { READ } else { WRITE };
        let rate = text
            .lines()
            .find_map(|line| line.split(';').nth(field)?.parse::<f64>().ok());
        let rate = rate.filter(|_| output.status.success()).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            io::Error::other(format!("fio {what}: {}: {text} {errors}", output.status))
        })?;
        // Writing to a string does not fail.
        let _ = writeln!(told, "{name} {:.3}", rate * 1.024e-3);
    }
    fs::remove_file(dir.join("fio-file"))?;
    Ok(told)
}
