// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The manual: a page for each command, in section 1 for people and in section 8 for engines.

use std::io::{self, Write};

use base::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::Page;

/// The pages of `kata` and of `kata-runtime`, with all of their commands.
pub(super) fn pages(kata: Command, runtime: Command) -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    for (program, section) in [(kata, "1"), (runtime, "8")] {
        let mut program = without_help(program);
        program.build();
        add(&program, section, &mut pages)?;
    }
    Ok(pages)
}

/// `help` is no command that one would look up.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn add(command: &Command, section: &str, pages: &mut Vec<Page>) -> Result<()> {
    let name = name(command);
    let text = page(command, section).attempt(|| format!("render the page of {name}"))?;
    pages.push((format!("man{section}/{name}.{section}").into(), text));
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.into_iter().try_for_each(|command| add(command, section, pages))
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, section: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).section(section);
    let mut page = Vec::new();
    // Without a date: the same source makes the same pages.
    writeln!(
        page,
        ".TH \"{}\" {section} \"\" \"kata {}\" \"Containers in virtual machines\"",
        name(command),
        env!("CARGO_PKG_VERSION")
    )?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        self::notes(&notes.to_string()).to_writer(&mut page)?;
    }
    see_also(name(command)).to_writer(&mut page)?;
    Ok(quoted_in_bold(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Indented lines are tables and stay as they are, others are text.
fn notes(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]);
    let mut table = false;
    for line in text.lines() {
        let indented = line.starts_with("  ");
        if indented != table {
            roff.control(if indented { "nf" } else { "fi" }, []);
            table = indented;
        }
        if line.trim().is_empty() {
            roff.control("PP", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    if table {
        roff.control("fi", []);
    }
    roff
}

/// The page above, or for the uppermost ones each other.
fn see_also(name: &str) -> Roff {
    let other = match name {
        "kata" => ("kata-runtime", "8"),
        "kata-runtime" => ("kata", "1"),
        _ if name.starts_with("kata-runtime-") => ("kata-runtime", "8"),
        _ => (name.rsplit_once('-').map_or("kata", |(above, _)| above), "1"),
    };
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let words: [Inline; 2] = [bold(other.0), roman(format!("({})", other.1))];
    roff.text(words);
    roff
}

/// Between backticks stands what one types, as in our messages; a formatter would make quotation marks of them.
fn quoted_in_bold(page: &str) -> String {
    let mut bold = String::with_capacity(page.len());
    for line in page.lines() {
        let parts: Vec<&str> = line.split('`').collect();
        if parts.len().is_multiple_of(2) {
            bold.push_str(line);
        } else {
            for (at, part) in parts.iter().enumerate() {
                match at {
                    0 => {}
                    _ if at % 2 == 1 => bold.push_str(r"\fB"),
                    _ => bold.push_str(r"\fR"),
                }
                bold.push_str(part);
            }
        }
        bold.push('\n');
    }
    bold
}

#[cfg(test)]
mod tests {
    use super::super::kata;
    use super::*;
    use crate::runtime;

    fn all() -> Vec<(String, String)> {
        let pages = pages(kata(), runtime::command()).unwrap();
        let texts = pages
            .into_iter()
            .map(|(path, text)| (path.to_str().unwrap().to_owned(), String::from_utf8(text).unwrap()));
        texts.collect()
    }

    fn text(name: &str) -> String {
        let page = all().into_iter().find(|(path, _)| path == name);
        page.unwrap_or_else(|| panic!("no page {name}")).1
    }

    #[test]
    fn each_command_has_a_page_with_a_line_for_apropos() {
        let pages = all();
        for name in [
            "man1/kata.1",
            "man1/kata-run.1",
            "man1/kata-config-import.1",
            "man1/kata-doctor.1",
            "man1/kata-guest.1",
            "man1/kata-guest-template-rm.1",
            "man8/kata-runtime.8",
            "man8/kata-runtime-create.8",
        ] {
            assert!(pages.iter().any(|(path, _)| path == name), "{name}");
        }
        for (path, text) in &pages {
            let (_, name) = path.rsplit_once('/').unwrap();
            let name = name.rsplit_once('.').unwrap().0.replace('-', r"\-");
            assert!(text.starts_with(".TH \""), "{path}: {text}");
            assert!(text.contains(&format!(".SH NAME\n{name} \\- ")), "{path}: {text}");
            assert!(
                !path.contains("help") && !text.contains(r"\-help(") && !text.contains('`'),
                "{path}"
            );
        }
    }

    #[test]
    fn pages_point_to_pages_that_are_there() {
        let pages = all();
        for (path, text) in &pages {
            let (_, seen) = text
                .split_once(".SH \"SEE ALSO\"\n")
                .unwrap_or_else(|| panic!("{path}: {text}"));
            let plain = seen.trim().replace(r"\fB", "").replace(r"\fR", "").replace('\\', "");
            let (name, section) = plain.trim_end_matches(')').split_once('(').unwrap();
            let target = format!("man{section}/{name}.{section}");
            assert!(pages.iter().any(|(path, _)| *path == target), "{path}: {target}");
        }
    }

    #[test]
    fn tables_keep_their_lines_and_hidden_options_stay_hidden() {
        let run = text("man1/kata-run.1");
        let (_, table) = run.split_once("\n.nf\n").unwrap();
        let (table, rest) = table.split_once("\n.fi\n").unwrap();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(rest.contains("Exit status"), "{rest}");
        assert!(!text("man1/kata-guest-template-build.1").contains("background"));
    }

    #[test]
    fn what_is_typed_is_bold() {
        assert_eq!(quoted_in_bold("run `a b` or `c`\n"), "run \\fBa b\\fR or \\fBc\\fR\n");
        assert_eq!(quoted_in_bold("one ` alone\n"), "one ` alone\n");
    }
}
