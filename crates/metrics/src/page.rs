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
#[derive(Debug, Default)]
pub struct Page {
    /// The lines of each family, without its name: `PART{LABELS} VALUE`.
    lines: BTreeMap<&'static str, Vec<String>>,
}

impl Page {
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
        let mut line = part.to_owned();
        for (index, (name, value)) in labels.enumerate() {
            line.push(if index == 0 { '{' } else { ',' });
            line.push_str(name);
            line.push_str("=\"");
            escape(value, &mut line);
            line.push('"');
        }
        if line.len() > part.len() {
            line.push('}');
        }
        // Writing to a string does not fail.
        let _ = write!(line, " {number}");
        self.lines.entry(family.name).or_default().push(line);
    }

    /// The text.
    pub fn render(&self, format: Format) -> String {
        let mut text = String::new();
        for family in ALL {
            let Some(lines) = self.lines.get(family.name) else {
                continue;
            };
            let (name, kind, part) = match (format, family.kind, family.name.strip_suffix("_total")) {
                (Format::OpenMetrics, Kind::Counter, Some(name)) => (name, "counter".to_owned(), "_total"),
                // There, the name of every counter's line has an end that Kata's have not.
                (Format::OpenMetrics, Kind::Counter, None) => (family.name, "unknown".to_owned(), ""),
                (_, kind, _) => (family.name, kind.to_string(), ""),
            };
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
            for line in lines {
                let _ = writeln!(text, "{name}{part}{line}");
            }
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
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
        let mut page = Page::default();
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
            page.render(Format::Text),
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
        let mut page = Page::default();
        page.histogram(&family::SHIM_RPC, &["create"], &histogram);
        let text = page.render(Format::Text);
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
        let mut page = Page::default();
        page.set(&family::SHIM_CPU, &[], 1.5);
        page.set(&family::MONITOR_SCRAPES, &[], 2.0);
        let text = page.render(Format::OpenMetrics);
        for line in [
            "# TYPE kata_shim_process_cpu_seconds counter\nkata_shim_process_cpu_seconds_total 1.5\n",
            "# TYPE kata_monitor_scrape_count unknown\nkata_monitor_scrape_count 2\n# EOF\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(
            page.render(Format::Text)
                .contains("# TYPE kata_monitor_scrape_count counter\n")
        );
    }
}
