// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata config show`.

use std::process::ExitCode;

use base::{Error, Kind, Result};
use clap::Args;
use config::definition::{KEYS, SECTIONS};
use config::value::Item;
use config::{Loaded, packaged};
use serde_json::{Map, Value, json};

use super::Choice;
use crate::runtime::print;

#[derive(Debug, Args)]
pub struct Show {
    /// Print the file that packages install: all keys with their defaults, commented out
    #[arg(long = "default", conflicts_with_all = ["json", "keys"])]
    defaults: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only these, as machine.vcpus, or sections
    keys: Vec<String>,
}

pub fn run(choice: &Choice, show: &Show) -> Result<ExitCode> {
    if show.defaults {
        print(&packaged::text())?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |name: &str| {
        let section = name.split('.').next().unwrap_or_default();
        show.keys.is_empty() || show.keys.iter().any(|key| key == name || key == section)
    };
    let unknown = show.keys.iter().find(|key| {
        !KEYS.iter().any(|known| known.name == *key) && !SECTIONS.iter().any(|section| section.name == *key)
    });
    if let Some(unknown) = unknown {
        let what = format!("no key and no section {unknown}");
        return Err(Error::new(Kind::NotFound, what).because("`kata config show --default` lists all"));
    }
    let loaded = choice.load()?;
    let text = if show.json {
        json(&loaded, &wanted)
    } else {
        toml(&loaded, &wanted)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn toml(loaded: &Loaded, wanted: &dyn Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for file in &loaded.files {
        text.push_str(&format!("# {}\n", file.display()));
    }
    if let Some(profile) = &loaded.selection.profile {
        text.push_str(&format!("# profile {profile}\n"));
    }
    for section in SECTIONS {
        let mut keys = KEYS
            .iter()
            .filter(|key| key.parts().0 == section.name && wanted(key.name))
            .peekable();
        if keys.peek().is_some() {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{}]\n", section.name));
        }
        for key in keys {
            let name = key.parts().1;
            let line = match loaded.config.get(key.name) {
                Some(item) => format!("{name} = {}", item.toml()),
                None => format!("#{name} is not set"),
            };
            text.push_str(&format!("{line}  # {}\n", origin(loaded, key.name)));
        }
    }
    text
}

fn json(loaded: &Loaded, wanted: &dyn Fn(&str) -> bool) -> String {
    let mut keys = Map::new();
    for key in KEYS.iter().filter(|key| wanted(key.name)) {
        let value = match loaded.config.get(key.name) {
            None => Value::Null,
            Some(Item::Text(text)) => json!(text),
            Some(Item::Whole(number)) => json!(number),
            Some(Item::Truth(truth)) => json!(truth),
            Some(Item::List(words)) => json!(words),
        };
        keys.insert(
            key.name.to_owned(),
            json!({ "value": value, "from": origin(loaded, key.name) }),
        );
    }
    let all = json!({ "files": loaded.files, "profile": loaded.selection.profile, "keys": keys });
    format!("{all}\n")
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.origins.get(key).map_or("default".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again_and_says_where_it_is_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k.toml");
        std::fs::write(
            &file,
            "[machine]\nvcpus = 3\n[profile.p.guest]\nkernel_params = \"a # b\"\n",
        )
        .unwrap();
        let selection = config::Selection::default()
            .with(Some(file.clone()), Some("p".into()))
            .unwrap();
        let loaded = Loaded::load(&selection, &|_| None).unwrap();
        let text = toml(&loaded, &|_| true);
        let at = file.display();
        assert!(text.contains(&format!("\nvcpus = 3  # {at}:2:1\n")), "{text}");
        assert!(
            text.contains(&format!("kernel_params = \"a # b\"  # {at}:4:1, profile p\n")),
            "{text}"
        );
        assert!(text.contains("\nmemory = 2048  # default\n"), "{text}");
        assert!(text.contains("\n#max_vcpus is not set  # default\n"), "{text}");
        std::fs::write(&file, &text).unwrap();
        let again = Loaded::load(&selection.with(None, None).unwrap(), &|_| None);
        // The profile is gone, its values are in.
        assert!(again.is_err());
        let plain = config::Selection::default().with(Some(file), None).unwrap();
        assert_eq!(Loaded::load(&plain, &|_| None).unwrap().config, loaded.config);
        let json: Value = serde_json::from_str(&json(&loaded, &|name| name == "machine.vcpus")).unwrap();
        assert_eq!(json["keys"]["machine.vcpus"]["value"], 3);
        assert_eq!(json["keys"].as_object().unwrap().len(), 1);
    }
}
