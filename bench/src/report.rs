// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What was measured, as data: Markdown, JSON and plots are made of it elsewhere.

use std::fs;

use serde::Serialize;

use crate::sample::Sample;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub host: Host,
    pub sections: Vec<Section>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub struct Host {
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// What runs the guests.
    pub hypervisor: String,
    /// Who else was busy: the load average before anything was measured.
    pub load: String,
}

/// A question with its answers.
#[derive(Debug, Serialize)]
pub struct Section {
    pub title: String,
    /// What one must know to read the tables.
    pub notes: Vec<String>,
    pub tables: Vec<Table>,
}

/// The same things, measured on each of several.
#[derive(Debug, Serialize)]
pub struct Table {
    pub title: String,
    pub unit: String,
    /// Who was measured.
    pub columns: Vec<String>,
    /// The ratio of the medians of the first column and the second, by position.
    pub ratio: Option<(usize, usize)>,
    pub rows: Vec<Row>,
}

/// One thing; a sample for each column.
#[derive(Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub samples: Vec<Sample>,
}

impl Host {
    /// This one.
    pub fn look() -> Host {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let hypervisor = machine::choose(None).map_or_else(|e| e.chain(), |backend| backend.name().to_owned());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Host {
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            cores,
            memory_mib: memory("MemTotal").unwrap_or(0),
            kernel: kernel.trim().to_owned(),
            hypervisor,
        }
    }
}

/// A line of `/proc/meminfo`, in MiB.
pub fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024)
}

impl Section {
    pub fn new(title: &str) -> Section {
        Section {
            title: title.to_owned(),
            notes: Vec::new(),
            tables: Vec::new(),
        }
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

impl Table {
    /// Without a ratio.
    pub fn new(title: &str, unit: &str, columns: Vec<String>) -> Table {
        Table {
            title: title.to_owned(),
            unit: unit.to_owned(),
            columns,
            ratio: None,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, what: impl Into<String>, samples: Vec<Sample>) {
        self.rows.push(Row {
            what: what.into(),
            samples,
        });
    }

    /// Of a row, if this table has one and both were measured.
    pub fn ratio_of(&self, row: &Row) -> Option<f64> {
        let (of, to) = self.ratio?;
        let ratio = row.samples.get(of)?.median() / row.samples.get(to)?.median();
        ratio.is_finite().then_some(ratio)
    }

    /// How the ratio's column is called.
    pub fn ratio_name(&self) -> Option<String> {
        let (of, to) = self.ratio?;
        Some(format!("{}/{}", self.columns.get(of)?, self.columns.get(to)?))
    }
}
