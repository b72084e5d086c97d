// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Parts of a kernel configuration: reads them, lays one over another, and finds out which of their wishes the kernel's own
//! rules did not grant. It runs nothing and knows no option by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use base::{Error, Kind, Result};

/// Options with the values that they shall have, in an order in which a later choice wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    wishes: Vec<Wish>,
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// Without `CONFIG_`.
    option: String,
    value: Value,
    /// Where it is written, for errors.
    place: String,
    /// Whether it comes from the user: an option that the kernel does not know is a mistake then.
    own: bool,
}

/// What an option is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Off,
    /// `y`, a number, or a string in its quotes: as a configuration writes it.
    On(String),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Off => out.write_str("off"),
            Value::On(text) => out.write_str(text),
        }
    }
}

/// The wishes that were not granted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Each as `CONFIG_X=y (from where) is off`.
    pub refused: Vec<String>,
    /// Options of our own configuration that this kernel does not know: it is of another version.
    pub unknown: Vec<String>,
}

impl Fragment {
    /// Reads a fragment; `name` is where it comes from, `own` whether the user gave it. [`Kind::Invalid`] with the line that
    /// is none of a configuration's.
    pub fn parse(text: &str, name: &str, own: bool) -> Result<Fragment> {
        let mut fragment = Fragment::default();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", number + 1);
            let invalid = |why: &str| Error::new(Kind::Invalid, format!("{place}: {line:?} {why}"));
            match read(line.trim()) {
                Line::Nothing => {}
                Line::Option(_, Value::On(value)) if value == "m" => {
                    return Err(invalid("asks for a module: the guest's kernel has none, write =y"));
                }
                Line::Option(option, value) => fragment.set(Wish {
                    option: option.to_owned(),
                    value,
                    place,
                    own,
                }),
                Line::Garbage => {
                    let rule = "is neither CONFIG_X=VALUE, nor \"# CONFIG_X is not set\", nor a comment";
                    return Err(invalid(rule));
                }
            }
        }
        Ok(fragment)
    }

    /// Lays `other` over this one: what both name is as `other` has it.
    pub fn over(&mut self, other: Fragment) {
        other.wishes.into_iter().for_each(|wish| self.set(wish));
    }

    fn set(&mut self, wish: Wish) {
        self.wishes.retain(|earlier| earlier.option != wish.option);
        self.wishes.push(wish);
    }

    /// As a configuration file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for wish in &self.wishes {
            // Writing to a string cannot fail.
            let _ = match &wish.value {
                Value::Off => writeln!(text, "# CONFIG_{} is not set", wish.option),
                Value::On(value) => writeln!(text, "CONFIG_{}={value}", wish.option),
            };
        }
        text
    }

    /// What became of the wishes in the finished configuration `config` of a kernel that knows the options `known`.
    pub fn judge(&self, config: &str, known: &BTreeSet<String>) -> Verdict {
        let set = values(config);
        let mut verdict = Verdict::default();
        for wish in &self.wishes {
            let got = set.get(wish.option.as_str()).unwrap_or(&Value::Off);
            if *got == wish.value {
                continue;
            }
            let option = &wish.option;
            if known.contains(option) {
                let Wish { value, place, .. } = wish;
                let refused = format!("CONFIG_{option}={value} ({place}) is {got}");
                verdict.refused.push(refused);
            } else if wish.own {
                let refused = format!("CONFIG_{option} ({}) does not exist in this kernel", wish.place);
                verdict.refused.push(refused);
            } else {
                verdict.unknown.push(format!("CONFIG_{option}"));
            }
        }
        verdict
    }
}

/// A line of a configuration.
enum Line<'a> {
    Nothing,
    Option(&'a str, Value),
    Garbage,
}

fn read(line: &str) -> Line<'_> {
    let named = |option: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !option.is_empty() && option.bytes().all(fits)
    };
    if let Some(comment) = line.strip_prefix('#') {
        let off = comment.trim_start().strip_prefix("CONFIG_");
        return match off.and_then(|rest| rest.strip_suffix(" is not set")) {
            Some(option) if named(option) => Line::Option(option, Value::Off),
            _ => Line::Nothing,
        };
    }
    if line.is_empty() {
        return Line::Nothing;
    }
    match line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) {
        Some((option, "n")) if named(option) => Line::Option(option, Value::Off),
        Some((option, value)) if named(option) && sound(value) => Line::Option(option, Value::On(value.to_owned())),
        _ => Line::Garbage,
    }
}

/// Whether it is a switch, a number or a string: anything else would be ignored in silence.
fn sound(value: &str) -> bool {
    let number = value.strip_prefix('-').unwrap_or(value);
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    ["y", "m"].contains(&value)
        || quoted.is_some()
        || number
            .strip_prefix("0x")
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn values(config: &str) -> BTreeMap<&str, Value> {
    let lines = config.lines().filter_map(|line| match read(line.trim_end()) {
        Line::Option(option, value) => Some((option, value)),
        Line::Nothing | Line::Garbage => None,
    });
    lines.collect()
}

/// The options that the text of a Kconfig file defines.
pub fn defined(kconfig: &str) -> impl Iterator<Item = &str> {
    kconfig.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let first = words.next()?;
        ["config", "menuconfig"].contains(&first).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fragment> {
        Fragment::parse(text, "my.config", true)
    }

    fn known(options: &[&str]) -> BTreeSet<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn all_kinds_of_lines_are_read_and_written_again() {
        let text = "# A comment\n\nCONFIG_A=y\nCONFIG_B=n\n# CONFIG_C is not set\nCONFIG_D=0x10\nCONFIG_E=\"a=b #c\"\n  CONFIG_F=-1 \n";
        let written = "CONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C is not set\nCONFIG_D=0x10\nCONFIG_E=\"a=b #c\"\nCONFIG_F=-1\n";
        assert_eq!(parse(text).unwrap().text(), written);
    }

    #[test]
    fn what_is_no_line_is_refused_with_its_place() {
        for line in [
            "A=y",
            "CONFIG_A",
            "CONFIG_A = y",
            "CONFIG_A=yes",
            "CONFIG_A=\"x",
            "CONFIG_=y",
            "CONFIG_A=0x",
            "CONFIG_A=",
        ] {
            let error = parse(&format!("CONFIG_B=y\n{line}\n")).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{line}");
            assert!(error.chain().contains("my.config:2:"), "{}", error.chain());
        }
        let error = parse("CONFIG_XFS_FS=m\n").unwrap_err().chain();
        assert!(error.contains("my.config:1:") && error.contains("=y"), "{error}");
    }

    #[test]
    fn the_later_fragment_wins_and_comes_last() {
        let mut merged = Fragment::parse("CONFIG_HZ_250=y\nCONFIG_A=y\nCONFIG_N=64\n", "base", false).unwrap();
        merged.over(parse("CONFIG_N=8\n# CONFIG_HZ_250 is not set\nCONFIG_HZ_1000=y\n").unwrap());
        let text = "CONFIG_A=y\nCONFIG_N=8\n# CONFIG_HZ_250 is not set\nCONFIG_HZ_1000=y\n";
        assert_eq!(merged.text(), text);
    }

    #[test]
    fn every_wish_that_was_not_granted_is_named_with_its_place() {
        let mut merged = Fragment::parse("CONFIG_A=y\nCONFIG_GONE=y\nCONFIG_N=64\n", "base", false).unwrap();
        merged
            .over(parse("CONFIG_TYPO=y\n# CONFIG_B is not set\n# CONFIG_NEVER is not set\nCONFIG_S=\"x\"\n").unwrap());
        let known = known(&["A", "B", "N", "S"]);
        let good = "CONFIG_A=y\nCONFIG_N=64\n# CONFIG_B is not set\nCONFIG_S=\"x\"\n";
        let verdict = merged.judge(good, &known);
        assert_eq!(verdict.unknown, ["CONFIG_GONE"]);
        assert_eq!(
            verdict.refused,
            ["CONFIG_TYPO (my.config:1) does not exist in this kernel"]
        );
        let bad = "# CONFIG_A is not set\nCONFIG_N=32\nCONFIG_B=y\n";
        assert_eq!(
            merged.judge(bad, &known).refused,
            [
                "CONFIG_A=y (base:1) is off",
                "CONFIG_N=64 (base:3) is 32",
                "CONFIG_TYPO (my.config:1) does not exist in this kernel",
                "CONFIG_B=off (my.config:2) is y",
                "CONFIG_S=\"x\" (my.config:4) is off",
            ]
        );
    }

    #[test]
    fn definitions_are_found_in_a_kconfig_file() {
        let text = "menuconfig NET\n\tbool \"x\"\n\tselect OTHER\nconfig  A_1\nconfig\n\tconfig INNER\nif B\n";
        assert_eq!(defined(text).collect::<Vec<_>>(), ["NET", "A_1", "INNER"]);
    }
}
