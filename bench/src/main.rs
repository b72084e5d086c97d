// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `make bench`: ours and runc, or two builds of ours, side by side in one run. Nothing is asserted but that everything works:
//! machines are noisy, so contenders take turns, and what counts are medians and ratios.

mod concurrency;
mod contender;
mod density;
mod files;
mod fio;
mod footprint;
mod growth;
mod markdown;
mod memory;
mod plot;
mod report;
mod sample;
mod servers;
mod spans;
mod start;
mod stdio;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base::{Context, Error, Kind, Result};
use clap::Parser;

use contender::Setting;
use report::{Host, Report, Section};

/// Measures.
type Measure = fn(&Setting) -> Section;

const SECTIONS: [(&str, Measure); 9] = [
    ("start", start::compare),
    ("spans", spans::of_create),
    ("memory", memory::idle),
    ("density", density::marginal),
    ("concurrency", concurrency::at_once),
    ("growth", growth::in_a_crowd),
    ("stdio", stdio::through_cat),
    ("files", files::in_containers),
    ("servers", servers::side_by_side),
];

/// Benchmarks: ours beside runc, or two builds of ours. As root.
#[derive(Debug, Parser)]
#[command(name = "bench", about, long_about = None)]
struct Arguments {
    /// start, spans, memory, density, concurrency, growth, stdio, files, servers; all of them by default
    #[arg(value_name = "SECTION")]
    sections: Vec<String>,
    /// How often each thing is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Sandboxes side by side in memory and density
    #[arg(long, value_name = "N", default_value_t = 20)]
    sandboxes: usize,
    /// The largest crowd in growth
    #[arg(long, value_name = "N", default_value_t = 100)]
    crowd: usize,
    /// Also write the data
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write what is printed
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also draw each table into a directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Compare two directories of binaries (with guest images in `guest/`, if they have some)
    #[arg(long, value_names = ["DIR_A", "DIR_B"], num_args = 2)]
    ab: Option<Vec<PathBuf>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A failed step panics, which ends the process: nothing of it may stay.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        contender::sweep();
    }));
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let wanted = &arguments.sections;
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !SECTIONS.iter().any(|(section, _)| section == name))
    {
        let names = SECTIONS.map(|(name, _)| name).join(", ");
        return Err(Error::new(
            Kind::Invalid,
            format!("no section {unknown:?}; there are {names}"),
        ));
    }
    let builds = arguments.ab.and_then(|dirs| <[PathBuf; 2]>::try_from(dirs).ok());
    let setting = Setting::new(
        builds,
        arguments.runs.max(1),
        arguments.sandboxes.max(1),
        arguments.crowd,
    );
    setting.prepare();
    let mut report = Report {
        host: Host::look(),
        sections: Vec::new(),
    };
    print!("{}", markdown::of(&report));
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let section = measure(&setting);
            // Each as it is there: all of it takes a while.
            print!("{}", markdown::of_section(&section));
            report.sections.push(section);
        }
    }
    if let Some(path) = &arguments.markdown {
        write(path, &markdown::of(&report))?;
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report).context(Kind::Bug, || "write the report as JSON".into())?;
        write(path, &text)?;
    }
    if let Some(dir) = &arguments.svg {
        std::fs::create_dir_all(dir).attempt(|| format!("create {}", dir.display()))?;
        for table in report.sections.iter().flat_map(|section| &section.tables) {
            let name = table.title.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            write(&dir.join(name + ".svg"), &plot::of(table))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).attempt(|| format!("write {}", path.display()))
}
