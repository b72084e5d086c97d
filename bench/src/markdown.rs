// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A report as Markdown.

use std::fmt::Write as _;

use crate::report::{Report, Section, Table};

/// All of it. Writing to a string does not fail.
pub fn of(report: &Report) -> String {
    let host = &report.host;
    let mut text = format!(
        "# Benchmarks\n\n{} cores, {} MiB of memory, Linux {}, {}, load {} before it began. Median (least–most); ratios are those of \
         the medians.\n",
        host.cores, host.memory_mib, host.kernel, host.hypervisor, host.load
    );
    for section in &report.sections {
        text.push_str(&of_section(section));
    }
    text
}

/// One section.
pub fn of_section(section: &Section) -> String {
    let mut text = format!("\n## {}\n", section.title);
    for note in &section.notes {
        let _ = write!(text, "\n{note}\n");
    }
    for table in &section.tables {
        of_table(table, &mut text);
    }
    text
}

fn of_table(table: &Table, text: &mut String) {
    let ratio = table.ratio_name();
    let _ = write!(text, "\n| {}, {} |", table.title, table.unit);
    for column in table.columns.iter().chain(&ratio) {
        let _ = write!(text, " {column} |");
    }
    let _ = write!(
        text,
        "\n| --- |{}",
        " --- |".repeat(table.columns.len() + usize::from(ratio.is_some()))
    );
    for row in &table.rows {
        let _ = write!(text, "\n| {} |", row.what);
        for sample in &row.samples {
            let _ = write!(text, " {} |", sample.cell());
        }
        if ratio.is_some() {
            match table.ratio_of(row) {
                Some(ratio) => {
                    let _ = write!(text, " {ratio:.2} |");
                }
                None => text.push_str(" – |"),
            }
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn a_table_has_its_ratios() {
        let mut table = Table::new("start", "ms", vec!["ours".into(), "runc".into()]);
        table.ratio = Some((0, 1));
        table.row("first byte", vec![Sample::of(30.0), Sample::of(20.0)]);
        table.row("exec", vec![Sample::of(30.0), Sample::default()]);
        let mut section = Section::new("Start");
        section.note("So it is.");
        section.tables.push(table);
        let expected = "\n## Start\n\nSo it is.\n\n| start, ms | ours | runc | ours/runc |\n| --- | --- | --- | --- |\n\
                        | first byte | 30.0 | 20.0 | 1.50 |\n| exec | 30.0 | – | – |\n";
        assert_eq!(of_section(&section), expected);
    }
}
