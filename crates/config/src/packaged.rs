// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The file that packages install: every key with its default, commented out.

use crate::definition::{Config, KEYS, Key, SECTIONS};
use crate::value::Rule;

const HEAD: &str = "\
# Configuration of kata. Every key is here with its default, commented out. `kata config check` finds mistakes, `kata config show`
# prints what is in force and where it comes from.
#
# Also read, in the order of their names, later ones win: *.toml in the directory config.d beside this file. Then come the keys of the
# profile, the environment, the command line, and annotations of containers that are allowed.
#
# A profile has other values for some keys. It is chosen by the runtime's name (containerd-shim-kata-NAME-v2, that is
# io.containerd.kata-NAME.v2; kata-runtime-NAME) or by --profile NAME:
#
#[profile.small.machine]
#memory = 512
";

/// The text.
pub fn text() -> String {
    let defaults = Config::default();
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        text.push('\n');
        comment(&mut text, section.doc);
        text.push_str(&format!("[{}]\n", section.name));
        for key in KEYS.iter().filter(|key| key.parts().0 == section.name) {
            text.push('\n');
            comment(&mut text, key.doc);
            text.push_str(&format!("# {}.\n", asked(key)));
            let item = defaults.get(key.name);
            let shown = item.clone().unwrap_or_else(|| key.rule.example()).toml();
            let unset = if item.is_none() { "  # not set" } else { "" };
            text.push_str(&format!("#{} = {shown}{unset}\n", key.parts().1));
        }
    }
    text
}

fn comment(text: &mut String, doc: &[&str]) {
    for line in doc {
        text.push_str(&format!("#{line}\n"));
    }
}

/// What is asked of a value, and what goes before it.
fn asked(key: &Key) -> String {
    let mut words = key.rule.wants();
    if let (Some(first), false) = (words.get(..1), matches!(key.rule, Rule::Truth)) {
        words.replace_range(..1, &first.to_uppercase());
    }
    if matches!(key.rule, Rule::Truth) {
        words = "True or false".into();
    }
    match key.variable {
        Some(variable) => format!("{words}; {variable} goes before it"),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    #[test]
    fn packages_have_this_very_text() {
        let packaged = include_str!("../../../packaging/config.toml");
        assert!(
            packaged == text(),
            "`kata config show --default >packaging/config.toml` brings it up to date"
        );
    }

    #[test]
    fn the_file_changes_nothing_and_has_every_key() {
        let text = text();
        let document = Document::read("packaged", &text);
        assert!(document.entries.is_empty() && document.faults.is_empty());
        for key in KEYS {
            assert!(text.contains(&format!("\n#{} = ", key.parts().1)), "{}", key.name);
        }
    }

    #[test]
    fn what_is_commented_out_is_the_default() {
        // A line of a key has no space behind its mark.
        let bare: String = text()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            // Not the profile that stands there as an example.
            .filter(|line| line != "memory = 512\n")
            .collect();
        let document = Document::read("packaged", &bare);
        assert!(document.faults.is_empty(), "{:?}\n{bare}", document.faults);
        assert_eq!(document.entries.len(), KEYS.len());
        let defaults = Config::default();
        for entry in document.entries {
            let Some(item) = defaults.get(entry.key.name) else {
                continue;
            };
            assert_eq!(entry.item, item, "{}", entry.key.name);
        }
    }
}
