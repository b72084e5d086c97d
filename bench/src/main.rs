// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `make bench`: ours and runc side by side in one run, as Markdown on stdout. Nothing is asserted: machines are noisy, so the
//! two take turns, and what counts are medians and ratios.
//!
//! `bench [SECTION…]` with sections start, spans, memory, stdio, files; `BENCH_RUNS` sets the number of runs (5).

mod files;
mod memory;
mod sample;
mod start;
mod stdio;

use std::process::ExitCode;

/// Measures so many times and prints.
type Section = fn(usize);

fn main() -> ExitCode {
    let sections: [(&str, Section); 5] = [
        ("start", start::compare),
        ("spans", start::spans),
        ("memory", memory::idle),
        ("stdio", stdio::through_cat),
        ("files", files::compare),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !sections.iter().any(|(section, _)| section == name))
    {
        let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
        eprintln!("bench: no section {unknown:?}; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let runs = std::env::var("BENCH_RUNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            section(runs);
        }
    }
    ExitCode::SUCCESS
}
