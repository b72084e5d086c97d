// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which configuration a process has: a file, a profile, and what its command line says itself. Our processes hand it on to those that
//! they start, by the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::value::is_name;

/// Names the file.
pub const FILE: &str = "KATA_CONFIG";
/// Names the profile.
pub const PROFILE: &str = "KATA_PROFILE";
/// Has values of keys, one per line: `machine.vcpus=2`.
pub const VALUES: &str = "KATA_SET";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Absolute; none: the usual one, which need not exist.
    pub file: Option<PathBuf>,
    /// None: without one.
    pub profile: Option<String>,
    /// What a command line says, by key.
    pub values: BTreeMap<String, String>,
}

impl Selection {
    /// That of the environment. Errors: `Invalid`, naming the variable.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Selection> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let text = given(name).map(OsString::into_string).transpose();
            text.map_err(|_| Error::new(Kind::Invalid, format!("{name} is not UTF-8")))
        };
        let mut values = BTreeMap::new();
        for line in text(VALUES)?.unwrap_or_default().lines() {
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| Error::new(Kind::Invalid, format!("{VALUES}: {line:?} is not KEY=VALUE")))?;
            values.insert(key.to_owned(), value.to_owned());
        }
        let selection = Selection {
            values,
            ..Selection::default()
        };
        selection.with(given(FILE).map(PathBuf::from), text(PROFILE)?)
    }

    /// With what a command line names in place of what there is.
    pub fn with(mut self, file: Option<PathBuf>, profile: Option<String>) -> Result<Selection> {
        if let Some(file) = file {
            let file = std::path::absolute(&file).attempt(|| format!("configuration {}", file.display()))?;
            self.file = Some(file);
        }
        if let Some(profile) = profile {
            if !is_name(&profile) {
                return Err(Error::new(Kind::Invalid, format!("profile {profile:?} is no name")));
            }
            self.profile = Some(profile);
        }
        Ok(self)
    }

    /// With a key's value, as a command line has it.
    #[must_use]
    pub fn and(mut self, key: &str, value: impl Into<String>) -> Selection {
        self.values.insert(key.to_owned(), value.into());
        self
    }

    /// The environment that says the same: variables to be set, and those to be taken away.
    pub fn variables(&self) -> [(&'static str, Option<OsString>); 3] {
        let lines: Vec<String> = self
            .values
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        [
            (FILE, self.file.clone().map(OsString::from)),
            (PROFILE, self.profile.clone().map(OsString::from)),
            (VALUES, (!lines.is_empty()).then(|| lines.join("\n").into())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_arrives() {
        let selection = Selection::default()
            .with(Some("/etc/k.toml".into()), Some("small".into()))
            .unwrap()
            .and("machine.vcpus", "2")
            .and("guest.kernel_params", "a=b c");
        let variables = selection.variables();
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.and_then(|(_, value)| value.clone())
        };
        assert_eq!(Selection::of_environment(&lookup).unwrap(), selection);
        assert_eq!(Selection::of_environment(&|_| None).unwrap(), Selection::default());
        assert_eq!(
            Selection::default().variables().map(|(_, value)| value),
            [None, None, None]
        );
    }

    #[test]
    fn nonsense_names_its_variable() {
        let error = Selection::of_environment(&|name| (name == VALUES).then(|| "x".into())).unwrap_err();
        assert!(error.chain().contains("KATA_SET"), "{}", error.chain());
        assert!(Selection::default().with(None, Some("../x".into())).is_err());
    }
}
