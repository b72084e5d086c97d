// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Reads a page in Prometheus' text format, as [`crate::page`] writes it: lines of other families, or that are not such, make the whole
//! of it nonsense.

use base::{Error, Kind, Result};

use crate::family::{self, Family};

/// As many lines may a page have.
const MOST_LINES: usize = 100_000;
/// As many labels may a line have.
const MOST_LABELS: usize = 16;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// Whose it is.
    pub family: &'static Family,
    /// Of a histogram: `_bucket`, `_sum` or `_count`.
    pub part: &'a str,
    /// With their values.
    pub labels: Vec<(&'a str, String)>,
    /// Finite.
    pub number: f64,
}

/// All lines but comments. Errors: `Invalid`, with the number of the first that is none.
pub fn parse(text: &str) -> Result<Vec<Sample<'_>>> {
    let mut samples = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let nonsense = || Error::new(Kind::Invalid, format!("line {} of a page is no sample", index + 1));
        if index == MOST_LINES {
            return Err(nonsense().because(format!("there are more than {MOST_LINES}")));
        }
        if !line.is_empty() && !line.starts_with('#') {
            samples.push(sample(line).ok_or_else(nonsense)?);
        }
    }
    Ok(samples)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let (family, part) = family::of_sample(name)?;
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            if !labels.is_empty() {
                rest = rest.strip_prefix(',')?;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = unescape(after)?;
            let bound = label == "le" && part == "_bucket";
            let known = bound || family.labels.contains(&label) || family::COMMON.contains(&label);
            if !known || labels.len() == MOST_LABELS || labels.iter().any(|(other, _)| *other == label) {
                return None;
            }
            labels.push((label, value));
            rest = after;
        }
        rest = &rest[1..];
    }
    let number: f64 = rest.strip_prefix(' ')?.parse().ok()?;
    number.is_finite().then_some(Sample {
        family,
        part,
        labels,
        number,
    })
}

/// Up to the quotation mark, and what follows it.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            (_, c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::durations::Durations;
    use crate::page::{Format, Page};

    #[test]
    fn what_was_written_is_read() {
        let mut page = Page::new(Format::Text);
        page.set(&family::SHIM_NETDEV, &["a\"\\\nb,} c", "recv_bytes"], 5.5);
        page.set(&family::GUEST_UP, &[], 0.0);
        let durations = Durations::default();
        durations.note("wait", Duration::from_millis(3));
        durations.write(&family::SHIM_RPC, &mut page);
        let text = page.render();
        let samples = parse(&text).unwrap();
        assert_eq!(samples.len(), 2 + 18 + 2);
        let netdev = samples
            .iter()
            .find(|sample| sample.family == &family::SHIM_NETDEV)
            .unwrap();
        assert_eq!(netdev.labels[0], ("interface", "a\"\\\nb,} c".to_owned()));
        // Written once more, it is the same.
        let mut again = Page::new(Format::Text);
        for sample in &samples {
            let labels = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
            again.line(sample.family, sample.part, labels, sample.number);
        }
        assert_eq!(again.render(), text);
    }

    #[test]
    fn nonsense_is_told_with_its_line() {
        for line in [
            "kata_guest_up",
            "kata_guest_up 1 2 3",
            "kata_guest_up NaN",
            "kata_guest_up{} x",
            "kata_guest_up{item=\"a\"} 1",
            "kata_guest_load{item=\"a} 1",
            "kata_guest_load{item=\"a\\x\"} 1",
            "kata_guest_load{item=\"a\",item=\"b\"} 1",
            "kata_guest_load{item=\"a\"item=\"b\"} 1",
            "other_up 1",
        ] {
            let error = parse(&format!("# HELP x y\n{line}\n")).unwrap_err();
            assert!(error.chain().contains("line 2"), "{line}: {}", error.chain());
        }
    }
}
