// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is wrong with a configuration: where, what, and what to do.

use std::fmt;

use base::{Error, Kind};

/// A line of a file, or something else that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A file, a variable, the command line.
    pub source: String,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
}

impl Place {
    /// All of something.
    pub fn of(source: impl Into<String>) -> Place {
        Place {
            source: source.into(),
            at: None,
        }
    }

    /// The place of byte `offset` in `text`.
    pub fn within(source: &str, text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[start..].chars().count() + 1;
        Place {
            source: source.to_owned(),
            at: Some((line, column)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub what: String,
    /// Empty if `what` says it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

/// All that is wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Faults {
        Faults(vec![fault])
    }
}

impl From<Faults> for Error {
    /// The first one; how many more there are.
    fn from(faults: Faults) -> Error {
        let first = faults.0.first().map(ToString::to_string).unwrap_or_default();
        let more = match faults.0.len() {
            0 | 1 => String::new(),
            all => format!("; {} more, which `kata config check` shows", all - 1),
        };
        Error::new(Kind::Invalid, "read the configuration").because(format!("{first}{more}"))
    }
}

/// The one of `known` that `word` is most like, if it is like one at all.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(word, name), name));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 > 0.8).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns() {
        let text = "a = 1\nü = x\n";
        assert_eq!(Place::within("f", text, 0).to_string(), "f:1:1");
        assert_eq!(Place::within("f", text, text.find('x').unwrap()).to_string(), "f:2:5");
        assert_eq!(Place::within("f", text, 999).to_string(), "f:3:1");
    }

    #[test]
    fn an_error_has_the_first_fault_and_counts_the_others() {
        let fault = |what: &str| Fault {
            place: Place::of("f"),
            what: what.into(),
            remedy: "do".into(),
        };
        let error = Error::from(Faults(vec![fault("one"), fault("two"), fault("three")]));
        let chain = error.chain();
        assert_eq!(
            chain,
            "read the configuration: f: one (do); 2 more, which `kata config check` shows"
        );
        assert_eq!(nearest("vcpu", ["memory", "vcpus"]), Some("vcpus"));
        assert_eq!(nearest("zzz", ["memory", "vcpus"]), None);
    }
}
