// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata run --timeline`: where the time of one start went, as a picture. Our own steps are drawn above the monitor's, on one clock.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use base::{Context, Result};
use sandbox::saved::Saved;
use sandbox::{Span, Spans};

/// Pixels: of a row, of the names at its left, of the time axis, and around everything.
const ROW: f64 = 22.0;
const NAMES: f64 = 120.0;
const AXIS: f64 = 800.0;
const EDGE: f64 = 20.0;
/// For the figure right of the longest bar.
const FIGURE: f64 = 80.0;
/// Of the two owners of steps.
const COLOURS: [&str; 2] = ["#4878a8", "#d08840"];

/// The steps of `kata run` so far, each from the end of the one before.
#[derive(Debug)]
pub struct Timeline {
    spans: Spans,
    last: Instant,
}

impl Timeline {
    /// Time counts from now.
    pub fn begin() -> Timeline {
        let last = Instant::now();
        Timeline {
            spans: Spans::since(last),
            last,
        }
    }

    /// The present step has ended; it was this one.
    pub fn end(&mut self, name: &str) {
        self.spans.end(name, self.last);
        self.last = Instant::now();
    }

    /// Draws them into `file`, with those of the monitor of `sandbox`. A picture that cannot be drawn is no reason to end a container.
    pub fn draw(&self, sandbox: &Path, file: &Path) {
        let drawn = self.rows(sandbox).and_then(|rows| {
            let picture = std::fs::write(file, svg(&rows));
            picture.attempt(|| format!("write {}", file.display()))
        });
        if let Err(e) = drawn {
            log::error!("draw the timeline: {}", e.chain());
        }
    }

    fn rows(&self, sandbox: &Path) -> Result<Vec<Row>> {
        let ours = self.spans.steps().iter().map(|span| Row::of(span, 0, 0.0));
        let mut rows: Vec<Row> = ours.collect();
        if let Some(saved) = Saved::read(sandbox)? {
            let later = saved.begun - self.spans.begun();
            rows.extend(saved.spans.iter().map(|span| Row::of(span, 1, later)));
        }
        Ok(rows)
    }
}

/// One bar.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    /// Index into [`COLOURS`].
    owner: usize,
    /// Milliseconds from our beginning.
    at: f64,
    ms: f64,
}

impl Row {
    fn of(span: &Span, owner: usize, later: f64) -> Row {
        Row {
            name: span.name.clone(),
            owner,
            at: span.at + later,
            ms: span.ms,
        }
    }
}

fn svg(rows: &[Row]) -> String {
    let end = rows.iter().map(|row| row.at + row.ms).fold(1.0, f64::max);
    let x = |ms: f64| EDGE + NAMES + ms / end * AXIS;
    let width = EDGE + NAMES + AXIS + FIGURE + EDGE;
    let height = rows.iter().fold(2.0 * EDGE + ROW, |height, _| height + ROW);
    let bottom = height - EDGE - ROW;
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let step = tick(end);
    let mut at = 0.0;
    while at <= end {
        let place = x(at);
        // Writing to a string does not fail.
        let _ = writeln!(
            picture,
            "<line x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{EDGE}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.0} ms</text>",
            bottom + ROW * 0.7
        );
        at += step;
    }
    let mut top = EDGE;
    for row in rows {
        let (begin, long) = (x(row.at), (row.ms / end * AXIS).max(1.0));
        let text = top + ROW * 0.7;
        let colour = COLOURS.get(row.owner).unwrap_or(&"gray");
        let _ = writeln!(
            picture,
            "<text x=\"{EDGE}\" y=\"{text:.1}\">{}</text>\
             <rect x=\"{begin:.1}\" y=\"{:.1}\" width=\"{long:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\">{:.1}</text>",
            escape(&row.name),
            top + 3.0,
            ROW - 6.0,
            begin + long + 4.0,
            row.ms
        );
        top += ROW;
    }
    picture.push_str("</svg>\n");
    picture
}

/// A round distance between at most ten marks, milliseconds.
fn tick(end: f64) -> f64 {
    let mut step = 1.0;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if end / step <= 10.0 {
            break;
        }
        step *= factor;
    }
    step
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_begin_where_steps_began() {
        let row = |name: &str, owner, at, ms| Row {
            name: name.into(),
            owner,
            at,
            ms,
        };
        let picture = svg(&[row("image", 0, 0.0, 100.0), row("a<b", 1, 100.0, 100.0)]);
        // The second half of the axis.
        let half = EDGE + NAMES + AXIS / 2.0;
        assert!(
            picture.contains(&format!("x=\"{half:.1}\" y=\"45.0\" width=\"400.0\"")),
            "{picture}"
        );
        assert!(picture.contains("a&lt;b") && picture.ends_with("</svg>\n"));
    }

    #[test]
    fn marks_are_round_and_few() {
        for (end, step) in [
            (1.0, 1.0),
            (10.0, 1.0),
            (11.0, 2.0),
            (50.0, 5.0),
            (99.0, 10.0),
            (600.0, 100.0),
        ] {
            assert!((tick(end) - step).abs() < f64::EPSILON, "{end}: {}", tick(end));
        }
    }

    #[test]
    fn the_monitors_steps_come_after_ours_on_our_clock() {
        let dir = tempfile::tempdir().unwrap();
        let mut timeline = Timeline::begin();
        timeline.end("image");
        let saved = Saved {
            id: "c".into(),
            phase: "up".into(),
            machine: None,
            device: None,
            reason: None,
            containers: std::collections::BTreeMap::new(),
            begun: timeline.spans.begun() + 5.0,
            spans: vec![Span {
                name: "machine".into(),
                at: 1.0,
                ms: 2.0,
            }],
        };
        saved.write(dir.path()).unwrap();
        let rows = timeline.rows(dir.path()).unwrap();
        assert_eq!((rows[0].name.as_str(), rows[1].owner), ("image", 1));
        assert!((rows[1].at - 6.0).abs() < 1e-6, "{rows:?}");
        let file = dir.path().join("t.svg");
        timeline.draw(dir.path(), &file);
        assert!(std::fs::read_to_string(file).unwrap().contains("machine"));
    }
}
