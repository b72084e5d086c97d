// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The command line as containerd writes it: flags in the manner of Go (`-name value`, `-name=value`, one dash or two), then what is
//! to be done.

use std::ffi::OsString;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Start,
    Delete,
    /// Ours: the server that `start` leaves.
    Serve,
    /// Ours: becomes the program that takes a container's output; see [`super::logger`].
    Log(Vec<OsString>),
    Version,
    Info,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    pub namespace: String,
    pub id: String,
    /// Of containerd.
    pub address: String,
    /// Without one, the working directory.
    pub bundle: Option<PathBuf>,
    /// Where the server listens; only [`Action::Serve`] is told.
    pub socket: Option<PathBuf>,
    pub debug: bool,
    pub action: Action,
}

impl Arguments {
    /// Errors: `Invalid`, naming the word.
    pub fn parse(args: &[OsString]) -> Result<Arguments> {
        let mut arguments = Arguments {
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            socket: None,
            debug: false,
            action: Action::Version,
        };
        let mut action = None;
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let text = word
                .to_str()
                .ok_or_else(|| invalid(format!("argument {word:?} is not UTF-8")))?;
            let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
                action = Some(match text {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "serve" => Action::Serve,
                    "log" => Action::Log(words.by_ref().cloned().collect()),
                    _ => return Err(invalid(format!("unknown action {text:?}: start or delete"))),
                });
                continue;
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            match name {
                "debug" => arguments.debug = given != Some("false"),
                "v" | "version" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                _ => {
                    let next = || words.next().and_then(|word| word.to_str());
                    let value = given.or_else(next);
                    let value = value.ok_or_else(|| invalid(format!("flag {text:?} needs a value")))?;
                    arguments.set(name, value)?;
                }
            }
            // As containerd's own shims: these ask for nothing else.
            if matches!(action, Some(Action::Version | Action::Info)) {
                break;
            }
        }
        arguments.action = action.ok_or_else(|| invalid("an action is needed: start or delete".to_owned()))?;
        arguments.check()?;
        Ok(arguments)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "namespace" => value.clone_into(&mut self.namespace),
            "id" => value.clone_into(&mut self.id),
            "address" => value.clone_into(&mut self.address),
            "bundle" => self.bundle = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            // Events go over containerd's socket.
            "publish-binary" => {}
            _ => return Err(invalid(format!("unknown flag -{name}"))),
        }
        Ok(())
    }

    /// Both become names of directories.
    fn check(&self) -> Result<()> {
        if matches!(self.action, Action::Version | Action::Info | Action::Log(_)) {
            return Ok(());
        }
        base::id::check(&self.namespace).attempt(|| format!("-namespace {:?}", self.namespace))?;
        base::id::check(&self.id).attempt(|| format!("-id {:?}", self.id))
    }

    /// The bundle's directory, absolute.
    pub fn bundle(&self) -> Result<PathBuf> {
        let bundle = self.bundle.clone().unwrap_or_else(|| ".".into());
        std::path::absolute(&bundle).attempt(|| format!("bundle {}", bundle.display()))
    }
}

fn invalid(what: String) -> Error {
    Error::new(Kind::Invalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Arguments::parse(&words)
    }

    #[test]
    fn lines_of_containerd_are_understood() {
        let start = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1 -debug start";
        let got = parse(start).unwrap();
        assert_eq!((got.namespace.as_str(), got.id.as_str()), ("k8s.io", "c1"));
        assert_eq!((got.address.as_str(), got.debug), ("/run/c.sock", true));
        assert_eq!((got.action, got.bundle), (Action::Start, None));
        let got = parse("--namespace=n -id=c1 -bundle /b delete").unwrap();
        assert_eq!((got.action, got.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        let got = parse("log 3 4 5 /l -x start").unwrap().action;
        assert_eq!(
            got,
            Action::Log(["3", "4", "5", "/l", "-x", "start"].map(OsString::from).into())
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, why) in [
            ("", "action is needed"),
            ("-namespace n -id c1 restart", "unknown action \"restart\""),
            ("-namespace n -id c1 -nonsense 1 start", "unknown flag -nonsense"),
            ("-namespace n -id", "needs a value"),
            ("-namespace n -id ../x start", "-id \"../x\""),
            ("-id c1 start", "-namespace"),
        ] {
            let chain = parse(line).unwrap_err().chain();
            assert!(chain.contains(why), "{line}: {chain}");
        }
    }
}
