// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Values of keys, what is asked of them, and how they become fields.

use std::path::{Path, PathBuf};
use std::time::Duration;

use regex_lite::Regex;
use toml_writer::{ToTomlValue, TomlStringBuilder};

/// A value as TOML has it. There are no others in our file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Text(String),
    Whole(i64),
    Truth(bool),
    List(Vec<String>),
}

impl Item {
    /// As TOML has it.
    pub fn toml(&self) -> String {
        match self {
            Item::Text(text) => quoted(text),
            Item::Whole(number) => number.to_string(),
            Item::Truth(truth) => truth.to_string(),
            Item::List(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                format!("[{}]", words.join(", "))
            }
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Item::Text(_) => "text",
            Item::Whole(_) => "a number",
            Item::Truth(_) => "true or false",
            Item::List(_) => "a list",
        }
    }
}

fn quoted(text: &str) -> String {
    TomlStringBuilder::new(text).as_default().to_toml_value()
}

/// What is asked of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Truth,
    /// From, to, and of what.
    Number(u32, u32, &'static str),
    OneOf(&'static [&'static str]),
    /// Letters, digits and `-_.`.
    Name,
    /// An absolute path.
    Path,
    /// Text without control characters.
    Line,
    /// Regular expressions.
    Patterns,
    /// Patterns of absolute paths.
    Globs,
}

impl Rule {
    /// For people, after "must be".
    pub fn wants(self) -> String {
        match self {
            Rule::Truth => "true or false".into(),
            Rule::Number(least, most, "") => format!("a whole number from {least} to {most}"),
            Rule::Number(least, most, unit) => format!("a whole number of {unit} from {least} to {most}"),
            Rule::OneOf(words) => format!("one of {}", words.join(", ")),
            Rule::Name => "a name of letters, digits and .-_".into(),
            Rule::Path => "an absolute path".into(),
            Rule::Line => "text without control characters".into(),
            Rule::Patterns => "a list of regular expressions".into(),
            Rule::Globs => "a list of patterns of absolute paths".into(),
        }
    }

    /// Errors: what is wrong, for people.
    pub fn check(self, item: &Item) -> Result<(), String> {
        let wrong = |why: String| Err(format!("{why}: it must be {}", self.wants()));
        match (self, item) {
            (Rule::Truth, Item::Truth(_)) => Ok(()),
            (Rule::Number(least, most, _), Item::Whole(number)) => {
                if (i64::from(least)..=i64::from(most)).contains(number) {
                    return Ok(());
                }
                wrong(format!("{number} is out of range"))
            }
            (Rule::OneOf(words), Item::Text(text)) if !words.contains(&text.as_str()) => {
                wrong(format!("{text:?} is no choice"))
            }
            (Rule::Name, Item::Text(text)) if !is_name(text) => wrong(format!("{text:?} is no name")),
            (Rule::Path, Item::Text(text)) if !Path::new(text).is_absolute() => {
                wrong(format!("{text:?} is not absolute"))
            }
            (Rule::OneOf(_) | Rule::Name | Rule::Path | Rule::Line, Item::Text(text)) => {
                if text.chars().any(char::is_control) {
                    return wrong("it has control characters".into());
                }
                Ok(())
            }
            (Rule::Patterns, Item::List(words)) => words.iter().try_for_each(|word| match Regex::new(word) {
                Ok(_) => Ok(()),
                Err(e) => wrong(format!("{word:?} is no regular expression ({e})")),
            }),
            (Rule::Globs, Item::List(words)) => words.iter().try_for_each(|word| match glob::Pattern::new(word) {
                Ok(_) if word.starts_with('/') => Ok(()),
                Ok(_) => wrong(format!("{word:?} does not begin with /")),
                Err(e) => wrong(format!("{word:?} is no pattern ({e})")),
            }),
            (_, item) => wrong(format!("{} is {}", item.toml(), item.noun())),
        }
    }

    /// A value out of a word of a command line or the environment; whether it is a good one, [`Rule::check`] says.
    pub fn item(self, text: &str) -> Item {
        let plain = || Item::Text(text.to_owned());
        match self {
            Rule::Truth => text.parse().map_or_else(|_| plain(), Item::Truth),
            Rule::Number(..) => text.parse().map_or_else(|_| plain(), Item::Whole),
            Rule::Patterns | Rule::Globs => Item::List(text.split_whitespace().map(str::to_owned).collect()),
            _ => plain(),
        }
    }

    /// A value to show how one looks, where there is no default.
    pub fn example(self) -> Item {
        match self {
            Rule::Truth => Item::Truth(true),
            Rule::Number(least, ..) => Item::Whole(least.into()),
            Rule::OneOf(words) => Item::Text(words.first().copied().unwrap_or_default().to_owned()),
            Rule::Name | Rule::Line => Item::Text("name".into()),
            Rule::Path => Item::Text("/path".into()),
            Rule::Patterns | Rule::Globs => Item::List(Vec::new()),
        }
    }
}

/// Letters, digits and `-_.`.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// A field's type.
pub trait Setting: Sized {
    /// Of a value that was checked; none when it is of another kind.
    fn read(item: &Item) -> Option<Self>;
    /// The inverse; none when nothing is set.
    fn item(&self) -> Option<Item>;
}

impl Setting for bool {
    fn read(item: &Item) -> Option<bool> {
        match item {
            Item::Truth(truth) => Some(*truth),
            _ => None,
        }
    }

    fn item(&self) -> Option<Item> {
        Some(Item::Truth(*self))
    }
}

impl Setting for u32 {
    fn read(item: &Item) -> Option<u32> {
        match item {
            Item::Whole(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    fn item(&self) -> Option<Item> {
        Some(Item::Whole((*self).into()))
    }
}

/// In seconds.
impl Setting for Duration {
    fn read(item: &Item) -> Option<Duration> {
        u32::read(item).map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn item(&self) -> Option<Item> {
        i64::try_from(self.as_secs()).ok().map(Item::Whole)
    }
}

impl Setting for String {
    fn read(item: &Item) -> Option<String> {
        match item {
            Item::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn item(&self) -> Option<Item> {
        Some(Item::Text(self.clone()))
    }
}

impl Setting for PathBuf {
    fn read(item: &Item) -> Option<PathBuf> {
        String::read(item).map(PathBuf::from)
    }

    fn item(&self) -> Option<Item> {
        Some(Item::Text(self.to_string_lossy().into_owned()))
    }
}

impl Setting for Vec<String> {
    fn read(item: &Item) -> Option<Vec<String>> {
        match item {
            Item::List(words) => Some(words.clone()),
            _ => None,
        }
    }

    fn item(&self) -> Option<Item> {
        Some(Item::List(self.clone()))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(item: &Item) -> Option<Option<T>> {
        T::read(item).map(Some)
    }

    fn item(&self) -> Option<Item> {
        self.as_ref().and_then(Setting::item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_says_what_it_wants() {
        let text = |text: &str| Item::Text(text.into());
        let list = |word: &str| Item::List(vec![word.into()]);
        for (rule, bad, words) in [
            (Rule::Truth, text("yes"), "\"yes\" is text: it must be true or false"),
            (
                Rule::Number(1, 8, "MiB"),
                Item::Whole(9),
                "9 is out of range: it must be a whole number of MiB from 1 to 8",
            ),
            (Rule::Number(1, 8, ""), Item::Whole(-1), "-1 is out of range"),
            (Rule::OneOf(&["text", "json"]), text("xml"), "one of text, json"),
            (Rule::Name, text("a/b"), "is no name"),
            (Rule::Path, text("a/b"), "is not absolute"),
            (Rule::Path, text("/a\n"), "control characters"),
            (Rule::Line, text("a\u{7}"), "control characters"),
            (Rule::Line, Item::Truth(true), "true is true or false"),
            (Rule::Patterns, list("("), "is no regular expression"),
            (Rule::Globs, list("bin/*"), "does not begin with /"),
            (Rule::Globs, list("/a/***"), "is no pattern"),
        ] {
            let why = rule.check(&bad).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn words_become_values_and_examples_are_good() {
        for rule in [
            Rule::Truth,
            Rule::Number(3, 8, ""),
            Rule::OneOf(&["a"]),
            Rule::Name,
            Rule::Path,
            Rule::Line,
            Rule::Patterns,
            Rule::Globs,
        ] {
            rule.check(&rule.example()).unwrap();
        }
        assert_eq!(Rule::Number(1, 8, "").item("7"), Item::Whole(7));
        assert!(
            Rule::Number(1, 8, "")
                .check(&Rule::Number(1, 8, "").item("many"))
                .is_err()
        );
        assert_eq!(Rule::Globs.item("/a /b").toml(), r#"["/a", "/b"]"#);
        assert_eq!(Rule::Truth.item("false"), Item::Truth(false));
    }
}
