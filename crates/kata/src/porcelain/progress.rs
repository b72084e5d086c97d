// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a pull shows on standard error: bars on a terminal, else a line per layer that is downloaded, nothing with `--quiet`.

use std::io::IsTerminal;
use std::sync::Arc;

use image::{Meter, Progress, Silent, Step};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The one for our standard error.
pub fn choose(quiet: bool) -> Arc<dyn Progress> {
    if quiet {
        return Arc::new(Silent);
    }
    if std::io::stderr().is_terminal() {
        return Arc::new(Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr())));
    }
    Arc::new(Lines)
}

struct Lines;

impl Progress for Lines {
    fn begin(&self, step: Step, name: &str, total: Option<u64>) -> Box<dyn Meter> {
        if step == Step::Download {
            let size = total.map_or(String::new(), |total| format!(" ({})", HumanBytes(total)));
            eprintln!("downloading {name}{size}");
        }
        Box::new(Silent)
    }
}

struct Bars(MultiProgress);

impl Progress for Bars {
    fn begin(&self, step: Step, name: &str, total: Option<u64>) -> Box<dyn Meter> {
        let what = match step {
            Step::Download => "download",
            Step::Unpack => "unpack",
        };
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix:8} {msg} [{bar:30}] {bytes:>10} of {total_bytes:10} {bytes_per_sec}",
            ),
            None => (ProgressBar::no_length(), "{prefix:8} {msg} {bytes:>10} {bytes_per_sec}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        // Said before it is shown.
        let bar = bar
            .with_style(style.progress_chars("=> "))
            .with_prefix(what)
            .with_message(name.to_owned());
        let bar = self.0.add(bar);
        Box::new(Bar(bar))
    }
}

/// Gone from the terminal with its end.
struct Bar(ProgressBar);

impl Meter for Bar {
    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_with_their_meters() {
        let bars = Bars(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        for total in [Some(10), None] {
            let mut meter = bars.begin(Step::Unpack, "0123456789ab", total);
            meter.advance(4);
            drop(meter);
        }
        Lines.begin(Step::Unpack, "x", None).advance(1);
    }
}
