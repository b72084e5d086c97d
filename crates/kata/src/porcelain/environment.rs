// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Variables of a process: later ones replace earlier ones of the same name.

use std::path::Path;

use base::{Context, Error, Kind, Result};

use super::arguments::ProcessArgs;

/// What a container has whose image says nothing.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=VALUE` each, in the order in which the names came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<String>);

impl Environment {
    /// Those of a spec.
    pub fn of(variables: impl IntoIterator<Item = String>) -> Environment {
        let mut environment = Environment::default();
        for variable in variables {
            environment.set(&variable);
        }
        environment
    }

    /// Sets one, written `NAME=VALUE`.
    pub fn set(&mut self, variable: &str) {
        let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        match self.0.iter_mut().find(|known| name(known) == name(variable)) {
            Some(known) => variable.clone_into(known),
            None => self.0.push(variable.to_owned()),
        }
    }

    /// Adds what the options say: the files first, then `-e`.
    pub fn add(&mut self, args: &ProcessArgs) -> Result<()> {
        for file in &args.env_file {
            let text = std::fs::read_to_string(file).attempt(|| format!("read {}", file.display()))?;
            for variable in lines(&text, file)? {
                self.take(&variable);
            }
        }
        for variable in &args.env {
            check(variable).attempt(|| format!("variable {variable:?}"))?;
            self.take(variable);
        }
        Ok(())
    }

    /// A name alone stands for our own value; without one, the variable goes.
    fn take(&mut self, variable: &str) {
        if variable.contains('=') {
            self.set(variable);
        } else if let Ok(value) = std::env::var(variable) {
            self.set(&format!("{variable}={value}"));
        } else {
            self.0.retain(|known| known.split('=').next() != Some(variable));
        }
    }

    pub fn into_list(self) -> Vec<String> {
        self.0
    }
}

fn check(variable: &str) -> Result<()> {
    let name = variable.split('=').next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) || variable.contains('\0') {
        return Err(Error::new(Kind::Invalid, "not NAME=VALUE"));
    }
    Ok(())
}

/// The variables of a file: empty lines and those with # in front say nothing.
fn lines(text: &str, file: &Path) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        check(line).attempt(|| format!("{}, line {}", file.display(), index + 1))?;
        variables.push(line.to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ones_win_and_names_stand_for_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nB=file\nC=a = b # c\n CARGO_PKG_NAME\n").unwrap();
        let args = ProcessArgs {
            env: ["A=", "B=line", "NO_SUCH_VARIABLE_HERE"].map(str::to_owned).to_vec(),
            env_file: vec![file.clone()],
            ..ProcessArgs::default()
        };
        let mut environment = Environment::of(["A=1", "NO_SUCH_VARIABLE_HERE=x"].map(str::to_owned));
        environment.add(&args).unwrap();
        let want = ["A=", "B=line", "C=a = b # c", "CARGO_PKG_NAME=kata"];
        assert_eq!(environment.into_list(), want);
        std::fs::write(&file, "A=1\nnot a name\n").unwrap();
        let chain = Environment::default().add(&args).unwrap_err().chain();
        assert!(chain.contains("env, line 2: not NAME=VALUE"), "{chain}");
        let args = ProcessArgs {
            env: vec!["=x".into()],
            ..ProcessArgs::default()
        };
        assert!(Environment::default().add(&args).is_err());
    }
}
