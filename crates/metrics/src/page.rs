// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A page in Prometheus' text format (0.0.4), or in that of OpenMetrics (1.0): families in their order, each once, its lines together.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::durations::Histogram;
use crate::family::{ALL, Family, Kind};

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What every Prometheus reads.
    Text,
    /// What newer ones ask for first.
    OpenMetrics,
}

impl Format {
    /// What the header `Accept` of a request asks for.
    pub fn accepted(accept: &str) -> Format {
        match accept.contains("application/openmetrics-text") {
            true => Format::OpenMetrics,
            false => Format::Text,
        }
    }

    /// The header `Content-Type` of a page.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Page {
    format: Format,
    /// The lines of each family, one after the other: many small pieces would leave holes in the memory of whoever writes pages for months.
    lines: BTreeMap<&'static str, String>,
}

impl Page {
    /// An empty one.
    pub fn new(format: Format) -> Page {
        Page {
            format,
            lines: BTreeMap::new(),
        }
    }

    /// Adds a number. One that is not finite is left out: it says nothing.
    pub fn set(&mut self, family: &'static Family, values: &[&str], number: f64) {
        debug_assert_eq!(family.labels.len(), values.len(), "labels of {}", family.name);
        let labels = family.labels.iter().copied().zip(values.iter().copied());
        self.line(family, "", labels, number);
    }

    /// Adds a number if there is one.
    pub fn put(&mut self, family: &'static Family, number: Option<u64>) {
        if let Some(number) = number {
            self.set(family, &[], number as f64);
        }
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, family: &'static Family, values: &[&str], histogram: &Histogram) {
        let labels = || family.labels.iter().copied().zip(values.iter().copied());
        for (bound, count) in histogram.buckets() {
            self.line(
                family,
                "_bucket",
                labels().chain([("le", bound.as_str())]),
                count as f64,
            );
        }
        self.line(family, "_sum", labels(), histogram.sum());
        self.line(family, "_count", labels(), histogram.count() as f64);
    }

    /// Adds a line: of a histogram, `part` says which.
    pub fn line<'a>(
        &mut self,
        family: &'static Family,
        part: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        number: f64,
    ) {
        if !number.is_finite() {
            return;
        }
        let lines = self.lines.entry(family.name).or_default();
        let (name, _, end) = name(family, self.format);
        // Writing to a string does not fail.
        let _ = write!(lines, "{name}{end}{part}");
        let mut open = false;
        for (name, value) in labels {
            lines.push(if open { ',' } else { '{' });
            open = true;
            lines.push_str(name);
            lines.push_str("=\"");
            escape(value, lines);
            lines.push('"');
        }
        let _ = writeln!(lines, "{} {number}", if open { "}" } else { "" });
    }

    /// The text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for family in ALL {
            let Some(lines) = self.lines.get(family.name) else {
                continue;
            };
            let (name, kind, _) = name(family, self.format);
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{lines}", family.help);
        }
        if self.format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

/// What a family is called, what it is said to be, and what follows its name in each line.
fn name(family: &Family, format: Format) -> (&'static str, &'static str, &'static str) {
    match (format, family.kind, family.name.strip_suffix("_total")) {
        (Format::OpenMetrics, Kind::Counter, Some(name)) => (name, "counter", "_total"),
        // There, the name of every counter's line has an end that Kata's have not.
        (Format::OpenMetrics, Kind::Counter, None) => (family.name, "unknown", ""),
        (_, kind, _) => (family.name, kind.name(), ""),
    }
}

fn escape(value: &str, into: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            c if c.is_control() => into.push('?'),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::family;

    #[test]
    fn lines_of_a_family_are_together_and_labels_are_escaped() {
        let mut page = Page::new(Format::Text);
        page.set(&family::GUEST_LOAD, &["load1"], 0.25);
        page.set(
            &family::SHIM_NETDEV,
            &["a\"\\\n\u{1b}", "recv_bytes"],
            18_446_744_073_709_551_615.0,
        );
        page.set(&family::GUEST_LOAD, &["load5"], f64::NAN);
        page.set(&family::GUEST_LOAD, &["load15"], 2.0);
        page.put(&family::SHIM_FDS, None);
        page.put(&family::SHIM_FDS, Some(7));
        assert_eq!(
            page.render(),
            "# HELP kata_shim_fds Open file descriptors of the sandbox's monitor.\n# TYPE kata_shim_fds gauge\nkata_shim_fds 7\n\
             # HELP kata_shim_netdev Interfaces in the network namespace of the sandbox's monitor, of /proc/net/dev.\n\
             # TYPE kata_shim_netdev gauge\n\
             kata_shim_netdev{interface=\"a\\\"\\\\\\n?\",item=\"recv_bytes\"} 18446744073709552000\n\
             # HELP kata_guest_load Load of the guest.\n# TYPE kata_guest_load gauge\n\
             kata_guest_load{item=\"load1\"} 0.25\nkata_guest_load{item=\"load15\"} 2\n"
        );
    }

    #[test]
    fn a_histogram_adds_up() {
        let mut histogram = Histogram::default();
        for ms in [0, 3, 3, 100_000_000] {
            histogram.note(Duration::from_millis(ms));
        }
        let mut page = Page::new(Format::Text);
        page.histogram(&family::SHIM_RPC, &["create"], &histogram);
        let text = page.render();
        for line in [
            "_bucket{action=\"create\",le=\"1\"} 1",
            "_bucket{action=\"create\",le=\"4\"} 3",
            "_bucket{action=\"create\",le=\"+Inf\"} 4",
            "_sum{action=\"create\"} 100000006",
            "_count{action=\"create\"} 4",
        ] {
            assert!(text.contains(&format!("milliseconds{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn counters_are_named_as_each_format_wants_them() {
        assert_eq!(
            Format::accepted("application/openmetrics-text;version=1.0.0;q=0.5,*/*"),
            Format::OpenMetrics
        );
        assert_eq!(Format::accepted("text/plain"), Format::Text);
        let page = |format| {
            let mut page = Page::new(format);
            page.set(&family::SHIM_CPU, &[], 1.5);
            page.set(&family::MONITOR_SCRAPES, &[], 2.0);
            page.render()
        };
        let text = page(Format::OpenMetrics);
        for line in [
            "# TYPE kata_shim_process_cpu_seconds counter\nkata_shim_process_cpu_seconds_total 1.5\n",
            "# TYPE kata_monitor_scrape_count unknown\nkata_monitor_scrape_count 2\n# EOF\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(page(Format::Text).contains("# TYPE kata_monitor_scrape_count counter\n"));
    }
}
