// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Several measurements of one thing.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// In the order of the runs.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// One value.
    pub fn of(value: f64) -> Sample {
        Sample(vec![value])
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In their order of size.
    pub fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The value below which `quarters` quarters of the values lie, the lower one where two are in the middle. NaN when nothing
    /// was measured.
    pub fn quartile(&self, quarters: usize) -> f64 {
        let values = self.sorted();
        let at = values.len().saturating_sub(1) * quarters / 4;
        values.get(at).copied().unwrap_or(f64::NAN)
    }

    /// Middle one, or the lower of the two in the middle. NaN when nothing was measured.
    pub fn median(&self) -> f64 {
        self.quartile(2)
    }

    /// Least and most; nothing when nothing was measured.
    pub fn range(&self) -> Option<(f64, f64)> {
        let values = self.sorted();
        Some((*values.first()?, *values.last()?))
    }

    /// `median (least–most)`.
    pub fn cell(&self) -> String {
        match self.range() {
            Some((least, most)) if self.0.len() > 1 => format!("{:.1} ({least:.1}–{most:.1})", self.median()),
            // What is small has more digits.
            Some((only, _)) if only.abs() < 1.0 => format!("{only:.2}"),
            Some((only, _)) => format!("{only:.1}"),
            None => "–".to_owned(),
        }
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_struct("Sample", 4)?;
        all.serialize_field("median", &self.median())?;
        all.serialize_field("least", &self.range().map(|(least, _)| least))?;
        all.serialize_field("most", &self.range().map(|(_, most)| most))?;
        all.serialize_field("values", &self.0)?;
        all.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut sample = Sample::default();
        assert_eq!(sample.cell(), "–");
        sample.push(9.0);
        assert_eq!(sample.cell(), "9.0");
        for value in [1.0, 5.0, 3.0] {
            sample.push(value);
        }
        assert!((sample.median() - 3.0).abs() < f64::EPSILON);
        assert_eq!(sample.cell(), "3.0 (1.0–9.0)");
        assert!((sample.quartile(4) - 9.0).abs() < f64::EPSILON);
    }
}
