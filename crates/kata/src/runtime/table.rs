// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Columns as runc aligns them: at least 12 wide, 3 spaces between, the last one as it is.

const LEAST: usize = 12;
const GAP: usize = 3;

/// The rows as lines, each with a newline.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].chars().count()).max();
        (widest.unwrap_or_default() + GAP).max(LEAST)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut lines = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                lines.push_str(cell);
            } else {
                lines.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_a_least_width_and_a_gap() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(&[row(["ID", "BUNDLE", "OWNER"]), row(["c1", "/tmp/cli-lab/b", "root"])]);
        let want = "ID          BUNDLE           OWNER\nc1          /tmp/cli-lab/b   root\n";
        assert_eq!(text, want);
    }
}
