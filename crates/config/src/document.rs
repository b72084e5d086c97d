// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One file: its text becomes entries. All that is wrong with it is found at once; what is right is kept.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::definition::{KEYS, Key, SECTIONS};
use crate::fault::{Fault, Place, nearest};
use crate::value::{Item, is_name};

/// The table of profiles.
pub const PROFILE: &str = "profile";
/// What Kata's tables are called in its `[hypervisor]` and `[agent]`.
const KATAS: [&str; 8] = [
    "qemu",
    "clh",
    "cloud-hypervisor",
    "firecracker",
    "dragonball",
    "stratovirt",
    "remote",
    "kata",
];

/// A key that is given a value.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: &'static Key,
    pub item: Item,
    pub place: Place,
    /// It holds for this profile only.
    pub profile: Option<String>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Document {
    pub entries: Vec<Entry>,
    /// All that it mentions, also those without a key.
    pub profiles: Vec<String>,
    pub faults: Vec<Fault>,
}

impl Document {
    /// Reads `text` of the file `name`.
    pub fn read(name: &str, text: &str) -> Document {
        let mut document = Document::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let at = error.span().map_or(text.len(), |span| span.start);
            document.faults.push(Fault {
                place: Place::within(name, text, at),
                what: error.message().replace('\n', " "),
                remedy: String::new(),
            });
        }
        let mut reader = Reader { name, text, document };
        reader.top(table.get_ref());
        reader.document
    }
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    document: Document,
}

type Table<'a> = DeTable<'a>;

impl Reader<'_> {
    fn top(&mut self, table: &Table<'_>) {
        for (name, value) in table {
            if name.get_ref() == PROFILE {
                self.profiles(value);
            } else {
                self.section(name, value, None);
            }
        }
    }

    fn profiles(&mut self, value: &Spanned<DeValue<'_>>) {
        let Some(profiles) = value.get_ref().as_table() else {
            return self.fault(
                value.span(),
                format!("{PROFILE} is no table"),
                format!("[{PROFILE}.NAME.machine]"),
            );
        };
        for (name, value) in profiles {
            let profile = name.get_ref().as_ref();
            if !is_name(profile) {
                let what = format!("{profile:?} is no name for a profile");
                self.fault(name.span(), what, "letters, digits and -_.".into());
                continue;
            }
            self.document.profiles.push(profile.to_owned());
            let Some(sections) = value.get_ref().as_table() else {
                let remedy = format!("[{PROFILE}.{profile}.machine]");
                self.fault(value.span(), format!("profile {profile} is no table"), remedy);
                continue;
            };
            for (name, value) in sections {
                self.section(name, value, Some(profile));
            }
        }
    }

    fn section(
        &mut self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        profile: Option<&str>,
    ) {
        let section = name.get_ref().as_ref();
        if !SECTIONS.iter().any(|known| known.name == section) {
            let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
            let remedy = match KEYS.iter().find(|key| key.parts().1 == section) {
                Some(key) => format!("it belongs into [{}]", key.parts().0),
                None => match nearest(section, known.iter().copied()) {
                    Some(near) => format!("did you mean [{near}]?"),
                    None => format!("the sections are {}, {PROFILE}", known.join(", ")),
                },
            };
            return self.fault(name.span(), format!("unknown section {section}"), remedy);
        }
        let Some(keys) = value.get_ref().as_table() else {
            let what = format!("{section} is a section, and no key");
            return self.fault(name.span(), what, format!("[{section}], and its keys below"));
        };
        for (name, value) in keys {
            self.key(section, name, value, profile);
        }
    }

    fn key(
        &mut self,
        section: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        profile: Option<&str>,
    ) {
        let short = name.get_ref().as_ref();
        let full = format!("{section}.{short}");
        let Some(key) = crate::definition::key(&full) else {
            let remedy = unknown(section, short, value.get_ref());
            return self.fault(name.span(), format!("unknown key {full}"), remedy);
        };
        let item = match item(value.get_ref()) {
            Some(item) => item,
            None => {
                let what = format!("{full}: it must be {}", key.rule.wants());
                return self.fault(value.span(), what, String::new());
            }
        };
        if let Err(why) = key.rule.check(&item) {
            return self.fault(value.span(), format!("{full}: {why}"), String::new());
        }
        let place = Place::within(self.name, self.text, name.span().start);
        self.document.entries.push(Entry {
            key,
            item,
            place,
            profile: profile.map(str::to_owned),
        });
    }

    fn fault(&mut self, span: Range<usize>, what: String, remedy: String) {
        let place = Place::within(self.name, self.text, span.start);
        self.document.faults.push(Fault { place, what, remedy });
    }
}

/// What to do about a key that there is not.
fn unknown(section: &str, short: &str, value: &DeValue<'_>) -> String {
    if value.as_table().is_some() && KATAS.contains(&short) {
        return "this looks like Kata's configuration.toml: `kata config import FILE` translates it".into();
    }
    let here = KEYS.iter().map(Key::parts).filter(|(other, _)| *other == section);
    if let Some(near) = nearest(short, here.map(|(_, name)| name)) {
        return format!("did you mean {near}?");
    }
    if let Some(key) = KEYS.iter().find(|key| key.parts().1 == short) {
        return format!("it belongs into [{}]", key.parts().0);
    }
    match nearest(short, KEYS.iter().map(|key| key.parts().1)) {
        Some(near) => match KEYS.iter().find(|key| key.parts().1 == near) {
            Some(key) => format!("did you mean {}?", key.name),
            None => String::new(),
        },
        None => "`kata config show --default` lists all keys".into(),
    }
}

/// Of those that our keys have.
pub(crate) fn item(value: &DeValue<'_>) -> Option<Item> {
    Some(match value {
        DeValue::String(text) => Item::Text(text.to_string()),
        DeValue::Integer(number) => Item::Whole(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Boolean(truth) => Item::Truth(*truth),
        DeValue::Array(words) => {
            let words = words.iter().map(|word| word.get_ref().as_str().map(str::to_owned));
            Item::List(words.collect::<Option<_>>()?)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let document = Document::read("f", text);
        document.faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_all_at_once() {
        let text = "\
[machine]
vcpu = 2
memory = \"much\"
image = \"x\"
vcpus = 1.5

[mashine]
memory = 1

[hypervisor.qemu]
path = \"/q\"
";
        let all = faults(text);
        let has = |words: &str| assert!(all.iter().any(|fault| fault.contains(words)), "{words}: {all:#?}");
        has("f:2:1: unknown key machine.vcpu (did you mean vcpus?)");
        has("f:3:10: machine.memory: \"much\" is text: it must be a whole number of MiB from 1 to");
        has("f:4:1: unknown key machine.image (it belongs into [guest])");
        has("f:5:9: machine.vcpus: it must be a whole number from 1 to 1024");
        has("f:7:2: unknown section mashine (did you mean [machine]?)");
        has("unknown key hypervisor.qemu (this looks like Kata's configuration.toml");
        assert_eq!(all.len(), 6, "{all:#?}");
    }

    #[test]
    fn mistakes_of_the_language_are_told_too_and_hide_no_others() {
        let all = faults("[machine]\nvcpus = = 2\nmemry = 1\nvcpus = 1\n");
        assert!(all.iter().any(|fault| fault.starts_with("f:2:9: ")), "{all:?}");
        assert!(all.iter().any(|fault| fault.contains("machine.memry")), "{all:?}");
        assert!(!faults("memory = 1").is_empty());
        assert!(faults("memory = 1")[0].contains("it belongs into [machine]"));
        assert!(faults("machine = 1")[0].contains("is a section"));
        assert!(faults("profile = 1")[0].contains("profile is no table"));
        assert!(faults("[profile.\"a b\".machine]")[0].contains("no name for a profile"));
        assert!(faults("[machine]\nvcpus = 1\nvcpus = 2")[0].contains("duplicate key"));
    }

    #[test]
    fn entries_know_their_profile_and_place() {
        let document = Document::read(
            "f",
            "machine.vcpus = 2\n[profile.small]\nmachine.memory = 256\n[profile.empty]\n",
        );
        assert!(document.faults.is_empty(), "{:?}", document.faults);
        assert_eq!(document.profiles, ["empty", "small"]);
        let told: Vec<_> = document
            .entries
            .iter()
            .map(|entry| (entry.key.name, entry.place.to_string(), entry.profile.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                ("machine.vcpus", "f:1:9".to_owned(), None),
                ("machine.memory", "f:3:9".to_owned(), Some("small"))
            ]
        );
    }
}
