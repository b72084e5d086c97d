// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Kata's `configuration.toml`, of its Go and of its Rust runtime, read once and put into our words. Nothing of it is dropped without
//! a line that says so.

mod fate;
mod keys;

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::definition::{Key, SECTIONS, key};
use crate::document;
use crate::fault::{Fault, Faults, Place, nearest};
use crate::value::Item;
use fate::Fate;

/// The hypervisor that is here, too.
const QEMU: &str = "qemu";

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Name and value are ours, too.
    Taken,
    /// Ours has another name.
    Renamed,
    /// Ours has another value.
    Converted,
    /// There is nothing that it could mean here.
    Meaningless,
    /// It is not one of Kata's.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Taken => "taken",
            Verdict::Renamed => "renamed",
            Verdict::Converted => "converted",
            Verdict::Meaningless => "meaningless here",
            Verdict::Unknown => "unknown",
        })
    }
}

/// A key of the input.
#[derive(Debug, Clone)]
pub struct Line {
    pub place: Place,
    /// With its table, as the input has it.
    pub key: String,
    pub verdict: Verdict,
    /// What it is now, or why it is not.
    pub note: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.key, self.verdict)?;
        if !self.note.is_empty() {
            write!(f, ": {}", self.note)?;
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Import {
    values: Vec<(&'static Key, Item)>,
    /// One for each key of the input, in its order.
    pub report: Vec<Line>,
}

/// What a value may depend on beside itself.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Processors of this host.
    pub processors: u32,
}

impl Import {
    /// Reads `text` of the file `name`. Errors: it is no TOML.
    pub fn read(name: &str, text: &str, facts: Facts) -> Result<Import, Faults> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(text.len(), |span| span.start);
            Faults::from(Fault {
                place: Place::within(name, text, at),
                what: error.message().replace('\n', " "),
                remedy: String::new(),
            })
        })?;
        let mut all = Vec::new();
        flatten(&mut Vec::new(), table.get_ref(), &mut all);
        all.sort_by_key(|found| found.at);
        let wanted = chosen(&all);
        let mut import = Import {
            values: Vec::new(),
            report: Vec::new(),
        };
        for found in &all {
            let (verdict, note) = import.judge(found, wanted.as_deref(), facts);
            import.report.push(Line {
                place: Place::within(name, text, found.at),
                key: found.path.join("."),
                verdict,
                note,
            });
        }
        Ok(import)
    }

    fn judge(&mut self, found: &Found<'_>, wanted: Option<&str>, facts: Facts) -> (Verdict, String) {
        let path: Vec<&str> = found.path.iter().map(String::as_str).collect();
        let (table, name) = match &path[..] {
            ["hypervisor", hypervisor, rest @ ..] if !rest.is_empty() => {
                if wanted.is_some_and(|wanted| wanted != *hypervisor) {
                    let why = format!("runtime.hypervisor_name is {}", wanted.unwrap_or_default());
                    return (Verdict::Meaningless, why);
                }
                let name = rest.join(".");
                if *hypervisor != QEMU && keys::of_the_program(&name) {
                    return (Verdict::Meaningless, keys::OTHER_VMM.to_owned());
                }
                ("hypervisor", name)
            }
            // Tables of the agent, and of a proxy and shim of old: their names are Kata's own.
            ["agent" | "proxy" | "shim" | "netmon", _, rest @ ..] if !rest.is_empty() => (path[0], rest.join(".")),
            [table, rest @ ..] if !rest.is_empty() => (*table, rest.join(".")),
            _ => ("", path.join(".")),
        };
        let Some(fate) = keys::fate(table, &name) else {
            let near = nearest(&name, keys::names(table));
            let note = near.map_or_else(String::new, |near| format!("not one of Kata's; did it mean {near}?"));
            return (Verdict::Unknown, note);
        };
        self.apply(&found.path.join("."), fate, found.value, facts)
    }

    fn apply(&mut self, full: &str, fate: Fate, value: &DeValue<'_>, facts: Facts) -> (Verdict, String) {
        let (to, converted) = match fate {
            Fate::Nothing(why) => return (Verdict::Meaningless, why.to_owned()),
            Fate::Same(to) => (to, None),
            Fate::By(to, convert) => (to, Some(convert)),
        };
        let Some(key) = key(to) else {
            return (Verdict::Unknown, format!("no key {to}"));
        };
        let original = document::item(value);
        let (item, note) = match converted {
            None => (original.clone(), String::new()),
            Some(convert) => match convert(value, facts) {
                fate::Outcome::Value(item, note) => (Some(item), note),
                fate::Outcome::Default(note) => return (Verdict::Converted, format!("{to} keeps its default: {note}")),
                fate::Outcome::Nothing(note) => return (Verdict::Meaningless, note),
            },
        };
        let Some(item) = item else {
            let why = format!("{to} must be {}", key.rule.wants());
            return (Verdict::Meaningless, format!("its value cannot be taken: {why}"));
        };
        if let Err(why) = key.rule.check(&item) {
            return (
                Verdict::Meaningless,
                format!("its value cannot be taken for {to}: {why}"),
            );
        }
        let same_name = full.rsplit('.').next() == Some(key.parts().1);
        let verdict = match (original.as_ref() == Some(&item), same_name) {
            (false, _) => Verdict::Converted,
            (true, true) => Verdict::Taken,
            (true, false) => Verdict::Renamed,
        };
        let mut told = format!("{to} = {}", item.toml());
        if !note.is_empty() {
            told.push_str(&format!(" ({note})"));
        }
        // Of two that mean one thing, the later one holds.
        if let Some(at) = self.values.iter().position(|(other, _)| other.name == key.name) {
            told.push_str(", in place of what another key said");
            self.values.remove(at);
        }
        self.values.push((key, item));
        (verdict, told)
    }

    /// What it is in our words.
    pub fn toml(&self) -> String {
        let mut text = "# Made by `kata config import`.\n".to_owned();
        for section in SECTIONS {
            let mut keys = self
                .values
                .iter()
                .filter(|(key, _)| key.parts().0 == section.name)
                .peekable();
            if keys.peek().is_some() {
                text.push_str(&format!("\n[{}]\n", section.name));
            }
            for (key, item) in keys {
                text.push_str(&format!("{} = {}\n", key.parts().1, item.toml()));
            }
        }
        text
    }
}

struct Found<'a> {
    path: Vec<String>,
    at: usize,
    value: &'a DeValue<'a>,
}

/// All keys that are no tables.
fn flatten<'a>(path: &mut Vec<String>, table: &'a DeTable<'a>, all: &mut Vec<Found<'a>>) {
    for (name, value) in table {
        path.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => flatten(path, inner, all),
            plain => all.push(Found {
                path: path.clone(),
                at: name.span().start,
                value: plain,
            }),
        }
        path.pop();
    }
}

/// Whose table of `[hypervisor.…]` counts, where there are several.
fn chosen(all: &[Found<'_>]) -> Option<String> {
    let named = all.iter().find(|found| found.path == ["runtime", "hypervisor_name"]);
    let named = named.and_then(|found| found.value.as_str()).map(str::to_owned);
    let tables = all
        .iter()
        .filter(|found| found.path.len() > 2 && found.path[0] == "hypervisor");
    let tables: Vec<&str> = tables.map(|found| found.path[1].as_str()).collect();
    let named = named.map(|name| match name.as_str() {
        "cloud-hypervisor" => "clh".to_owned(),
        _ => name,
    });
    // A name without a table of its own says nothing about the others.
    named.filter(|named| tables.contains(&named.as_str()) && tables.iter().any(|table| table != named))
}

#[cfg(test)]
#[path = "kata_test.rs"]
mod tests;
