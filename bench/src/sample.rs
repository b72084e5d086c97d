// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Several measurements of one thing, and how a comparison of two is printed.

/// In the order of the runs.
#[derive(Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Middle one, or the lower of the two in the middle. NaN when nothing was measured.
    pub fn median(&self) -> f64 {
        let values = self.sorted();
        values
            .get(values.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// `median (least–most)`.
    pub fn cell(&self) -> String {
        let values = self.sorted();
        match (values.first(), values.last()) {
            (Some(least), Some(most)) => format!("{:.1} ({least:.1}–{most:.1})", self.median()),
            _ => "–".to_owned(),
        }
    }
}

/// Table head for [`row`].
pub fn head(title: &str, unit: &str, runs: usize) {
    println!("\n## {title}\n");
    println!("{runs} runs each, taking turns; median (least–most), {unit}.\n");
    println!("| what | ours | runc | ratio ours/runc |\n| --- | --- | --- | --- |");
}

/// One comparison; the ratio is that of the medians.
pub fn row(what: &str, ours: &Sample, reference: &Sample) {
    let ratio = ours.median() / reference.median();
    println!("| {what} | {} | {} | {ratio:.2} |", ours.cell(), reference.cell());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut sample = Sample::default();
        assert_eq!(sample.cell(), "–");
        for value in [9.0, 1.0, 5.0, 3.0] {
            sample.push(value);
        }
        assert!((sample.median() - 3.0).abs() < f64::EPSILON);
        assert_eq!(sample.cell(), "3.0 (1.0–9.0)");
    }
}
