// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A table as a picture (SVG): a bar up to the median for each sample, a box between its quartiles, a line from least to most. Each
//! row has a scale of its own.

use std::fmt::Write as _;

use crate::report::{Row, Table};
use crate::sample::Sample;

const LABEL: f64 = 330.0;
const BARS: f64 = 400.0;
const VALUE: f64 = 170.0;
const BAR: f64 = 18.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 30.0;
const COLOURS: [&str; 4] = ["#2b6cb0", "#b7791f", "#2f855a", "#9b2c2c"];

/// The picture's text.
pub fn of(table: &Table) -> String {
    let columns = to_f64(table.columns.len());
    let height = HEAD + to_f64(table.rows.len()) * (columns * BAR + GAP) + columns * BAR + GAP;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <text x=\"4\" y=\"18\" font-weight=\"bold\">{}, {}</text>\n",
        LABEL + BARS + VALUE,
        escape(&table.title),
        escape(&table.unit)
    );
    let mut top = HEAD;
    for row in &table.rows {
        of_row(row, top, &mut text);
        top += columns * BAR + GAP;
    }
    for (name, colour) in table.columns.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(
            text,
            "<rect x=\"4\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"22\" y=\"{}\">{}</text>",
            top + 2.0,
            top + 13.0,
            escape(name)
        );
        top += BAR;
    }
    text.push_str("</svg>\n");
    text
}

fn of_row(row: &Row, top: f64, text: &mut String) {
    let most = row.samples.iter().filter_map(Sample::range).map(|(_, most)| most);
    let scale = BARS / most.fold(f64::MIN_POSITIVE, f64::max);
    let _ = writeln!(text, "<text x=\"4\" y=\"{}\">{}</text>", top + 13.0, escape(&row.what));
    for (n, (sample, colour)) in row.samples.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let Some((least, most)) = sample.range() else { continue };
        let y = top + to_f64(n) * BAR;
        let middle = y + BAR / 2.0;
        let x = |value: f64| LABEL + value * scale;
        let _ = writeln!(
            text,
            "<rect x=\"{LABEL}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\" fill-opacity=\"0.5\"/>\
             <rect x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"black\"/><text x=\"{}\" y=\"{}\">{}</text>",
            y + 2.0,
            sample.median() * scale,
            BAR - 4.0,
            x(sample.quartile(1)),
            y + 5.0,
            (sample.quartile(3) - sample.quartile(1)) * scale,
            BAR - 10.0,
            x(least),
            x(most),
            LABEL + BARS + 8.0,
            y + 13.0,
            sample.cell()
        );
    }
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_at_medians_and_text_is_escaped() {
        let mut table = Table::new("a < b", "ms", vec!["ours".into(), "runc".into()]);
        table.row("one & two", vec![Sample::of(50.0), Sample::of(100.0)]);
        let text = of(&table);
        assert!(
            text.contains("a &lt; b, ms") && text.contains("one &amp; two"),
            "{text}"
        );
        assert!(
            text.contains("width=\"200.0\"") && text.contains("width=\"400.0\""),
            "{text}"
        );
    }
}
