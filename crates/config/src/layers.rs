// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Puts a configuration together out of its layers, and keeps in mind where each value came from.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::definition::{Config, KEYS, Key, key};
use crate::document::{Document, Entry};
use crate::fault::{Fault, Faults, Place, nearest};
use crate::selection::Selection;
use crate::value::{Item, Rule};

/// The file, where none is named.
pub const USUAL: &str = "/etc/kata/config.toml";
/// Lies below all files: profiles by the names under which Kata is known.
const BUILT_IN: &str = "[profile.qemu]\nhypervisor.name = \"qemu\"\n";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File { place: Place, profile: Option<String> },
    Variable(&'static str),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { place, profile: None } => write!(f, "{place}"),
            Origin::File {
                place,
                profile: Some(profile),
            } => write!(f, "{place}, profile {profile}"),
            Origin::Variable(name) => write!(f, "{name}"),
            Origin::CommandLine => write!(f, "command line"),
        }
    }
}

/// A configuration.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub config: Config,
    /// By key; the others have their defaults.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Those that were read, in their order.
    pub files: Vec<PathBuf>,
    /// Those that there are.
    pub profiles: BTreeSet<String>,
    /// How it was chosen.
    pub selection: Selection,
}

impl Loaded {
    /// That which `selection` names, in this environment. Errors: all that is wrong with it.
    pub fn load(selection: &Selection, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Loaded, Faults> {
        let mut faults = Vec::new();
        let mut loaded = Loaded {
            selection: selection.clone(),
            ..Loaded::default()
        };
        let mut documents = vec![Document::read("built in", BUILT_IN)];
        let (texts, unreadable) = files(selection);
        faults.extend(unreadable);
        for (path, text) in texts {
            let document = Document::read(&path.to_string_lossy(), &text);
            faults.extend(document.faults.iter().cloned());
            documents.push(document);
            loaded.files.push(path);
        }
        for document in &documents {
            loaded.profiles.extend(document.profiles.iter().cloned());
        }
        if let Some(profile) = &selection.profile
            && !loaded.profiles.contains(profile)
        {
            faults.push(missing(profile, &loaded.profiles, selection));
        }
        let entries = || documents.iter().flat_map(|document| &document.entries);
        let general = entries().filter(|entry| entry.profile.is_none());
        let special = entries().filter(|entry| entry.profile.is_some() && entry.profile == selection.profile);
        for entry in general.chain(special) {
            faults.extend(loaded.take(entry).err());
        }
        faults.extend(loaded.take_variables(variable));
        faults.extend(loaded.take_values());
        if faults.is_empty() {
            Ok(loaded)
        } else {
            Err(Faults(faults))
        }
    }

    /// One without files: of the environment and the command line alone, as far as they make sense.
    pub fn bare(selection: &Selection, variable: &dyn Fn(&str) -> Option<OsString>) -> Loaded {
        let mut loaded = Loaded {
            selection: selection.clone(),
            ..Loaded::default()
        };
        // What is wrong with them was told with the files.
        let _ = (loaded.take_variables(variable), loaded.take_values());
        loaded
    }

    fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        let origin = Origin::File {
            place: entry.place.clone(),
            profile: entry.profile.clone(),
        };
        self.put(entry.key, &entry.item, origin)
    }

    fn put(&mut self, key: &'static Key, item: &Item, origin: Origin) -> Result<(), Fault> {
        self.config.set(key, item).map_err(|why| Fault {
            place: Place::of(origin.to_string()),
            what: format!("{}: {why}", key.name),
            remedy: String::new(),
        })?;
        self.origins.insert(key.name, origin);
        Ok(())
    }

    fn take_variables(&mut self, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for key in KEYS {
            let Some(name) = key.variable else { continue };
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
                continue;
            };
            // In a shell, a path may begin where one is.
            let value = match key.rule {
                Rule::Path => std::path::absolute(&value).map_or(value, PathBuf::into_os_string),
                _ => value,
            };
            let put = match value.to_str() {
                Some(text) => self.put(key, &key.rule.item(text), Origin::Variable(name)),
                None => Err(Fault {
                    place: Place::of(name),
                    what: "it is not UTF-8".into(),
                    remedy: String::new(),
                }),
            };
            faults.extend(put.err());
        }
        faults
    }

    fn take_values(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, value) in self.selection.values.clone() {
            let put = match key(&name) {
                Some(key) => self.put(key, &key.rule.item(&value), Origin::CommandLine),
                None => Err(Fault {
                    place: Place::of(Origin::CommandLine.to_string()),
                    what: format!("unknown key {name}"),
                    remedy: nearest(&name, KEYS.iter().map(|key| key.name))
                        .map_or(String::new(), |near| format!("did you mean {near}?")),
                }),
            };
            faults.extend(put.err());
        }
        faults
    }
}

fn missing(profile: &str, known: &BTreeSet<String>, selection: &Selection) -> Fault {
    let file = selection.file.clone().unwrap_or_else(|| USUAL.into());
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Fault {
        place: Place::of(file.to_string_lossy()),
        what: format!("no profile {profile}"),
        remedy: format!(
            "there are {}; [profile.{profile}] in that file or a drop-in makes one",
            known.join(", ")
        ),
    }
}

/// Where drop-ins of a file are: `config.toml` has `config.d/`.
pub fn drop_ins(file: &Path) -> PathBuf {
    file.with_extension("d")
}

/// The texts of the file and its drop-ins, in their order.
fn files(selection: &Selection) -> (Vec<(PathBuf, String)>, Vec<Fault>) {
    let (mut texts, mut faults) = (Vec::new(), Vec::new());
    let main = selection.file.clone().unwrap_or_else(|| USUAL.into());
    let mut read = |path: PathBuf, may_miss: bool| match fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound && may_miss => None,
        Err(e) => Some(Fault {
            place: Place::of(path.to_string_lossy()),
            what: format!("it cannot be read: {e}"),
            remedy: String::new(),
        }),
        Ok(text) => {
            texts.push((path, text));
            None
        }
    };
    faults.extend(read(main.clone(), selection.file.is_none()));
    let dir = drop_ins(&main);
    let mut more = Vec::new();
    match fs::read_dir(&dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(e) => faults.push(Fault {
            place: Place::of(dir.to_string_lossy()),
            what: format!("it cannot be read: {e}"),
            remedy: String::new(),
        }),
        Ok(entries) => more.extend(entries.flatten().map(|entry| entry.path())),
    }
    more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    more.sort();
    for path in more {
        faults.extend(read(path, false));
    }
    (texts, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(selection: &Selection) -> Result<Loaded, Faults> {
        Loaded::load(selection, &|_| None)
    }

    fn world(files: &[(&str, &str)]) -> (tempfile::TempDir, Selection) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let selection = Selection {
            file: Some(dir.path().join("config.toml")),
            ..Selection::default()
        };
        (dir, selection)
    }

    #[test]
    fn later_layers_win_and_are_remembered() {
        let (dir, selection) = world(&[
            (
                "config.toml",
                "machine.vcpus = 2\nmachine.memory = 512\n[profile.small]\nmachine.memory = 256\n",
            ),
            ("config.d/20-b.toml", "[machine]\nmemory = 1024\n"),
            ("config.d/10-a.toml", "[machine]\nmemory = 768\nvcpus = 3\n"),
            ("config.d/30-c.bak", "nonsense"),
        ]);
        let loaded = load(&selection).unwrap();
        assert_eq!((loaded.config.machine.vcpus, loaded.config.machine.memory), (3, 1024));
        let origin = loaded.origins["machine.memory"].to_string();
        assert_eq!(origin, format!("{}/config.d/20-b.toml:2:1", dir.path().display()));
        assert_eq!(loaded.files.len(), 3);
        assert_eq!(loaded.origins.get("guest.image"), None);

        let small = selection.clone().with(None, Some("small".into())).unwrap();
        let loaded = load(&small).unwrap();
        assert_eq!((loaded.config.machine.vcpus, loaded.config.machine.memory), (3, 256));
        assert!(
            loaded.origins["machine.memory"]
                .to_string()
                .ends_with("config.toml:4:9, profile small")
        );

        let told = small.and("machine.memory", "300");
        let loaded = load(&told).unwrap();
        assert_eq!(loaded.config.machine.memory, 300);
        assert_eq!(loaded.origins["machine.memory"].to_string(), "command line");
    }

    #[test]
    fn the_environment_goes_before_files() {
        let (_dir, selection) = world(&[("config.toml", "guest.directory = \"/g\"\n")]);
        assert_eq!(load(&selection).unwrap().config.guest.directory, Path::new("/g"));
        let variable = |name: &str| (name == "KATA_GUEST_DIR").then(|| OsString::from("here"));
        let loaded = Loaded::load(&selection, &variable).unwrap();
        assert!(loaded.config.guest.directory.is_absolute() && loaded.config.guest.directory.ends_with("here"));
        assert_eq!(loaded.origins["guest.directory"].to_string(), "KATA_GUEST_DIR");
    }

    #[test]
    fn all_faults_of_all_files_are_told() {
        let (dir, selection) = world(&[
            ("config.toml", "machine.vcpus = 0\n"),
            ("config.d/a.toml", "machine.what = 1\n"),
        ]);
        let selection = selection
            .with(None, Some("none".into()))
            .unwrap()
            .and("machine.memory", "x");
        let faults: Vec<String> = load(&selection)
            .unwrap_err()
            .0
            .iter()
            .map(ToString::to_string)
            .collect();
        let at = dir.path().display();
        for words in [
            format!("{at}/config.toml:1:17: machine.vcpus: 0 is out of range"),
            format!("{at}/config.d/a.toml:1:9: unknown key machine.what"),
            format!("{at}/config.toml: no profile none (there are qemu; [profile.none] in that file"),
            "command line: machine.memory: \"x\" is text".into(),
        ] {
            assert!(
                faults.iter().any(|fault| fault.contains(&words)),
                "{words}: {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 4);
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let (dir, selection) = world(&[]);
        let faults = load(&selection).unwrap_err();
        assert!(faults.0[0].to_string().contains("cannot be read"), "{faults:?}");
        assert!(load(&Selection::default().and("machine.vcpus", "2")).is_ok() || Path::new(USUAL).exists());
        let unknown = Selection::default().and("machine.vcpu", "2");
        assert!(
            load(&unknown).unwrap_err().0[0]
                .to_string()
                .contains("did you mean machine.vcpus?")
        );
        drop(dir);
    }

    #[test]
    fn the_built_in_profiles_are_right() {
        let document = Document::read("built in", BUILT_IN);
        assert!(document.faults.is_empty() && document.profiles == ["qemu"]);
    }
}
