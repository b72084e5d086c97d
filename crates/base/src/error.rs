// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One error type for everything above the device cores: a kind that callers match on and that crosses the
//! wire, what was tried on which object, and the cause.
//!
//! Messages are lower case, without a full stop, and never repeat the cause's text. An error is logged once,
//! where it is handled.

use std::error::Error as StdError;
use std::fmt;
use std::panic::Location;

/// What a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The object does not exist.
    NotFound,
    /// The object exists already.
    Exists,
    /// The input is wrong, and trying again will not help.
    Invalid,
    /// The object is not in a state that allows this.
    State,
    /// This build, machine or backend cannot do it.
    Unsupported,
    /// A deadline passed.
    Timeout,
    /// The other side (machine, monitor, process) has ended.
    Gone,
    /// Permission is missing.
    Denied,
    /// The guest failed or misbehaved.
    Guest,
    /// The operating system said no.
    Io,
    /// Our mistake.
    Bug,
}

/// `kind`, what was tried on which object, where in the code, and why it failed.
pub struct Error {
    kind: Kind,
    what: String,
    at: &'static Location<'static>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with [`Error`] unless told otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause (yet): see [`Error::because`].
    #[track_caller]
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error {
            kind,
            what: what.into(),
            at: Location::caller(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// What callers match on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `what: cause: cause of the cause`, in one line, for the user.
    pub fn chain(&self) -> String {
        let mut line = self.what.clone();
        let mut next = self.source();
        while let Some(error) = next {
            line.push_str(": ");
            line.push_str(&error.to_string());
            next = error.source();
        }
        line
    }
}

/// Kind and context of this hop only; the chain is printed once, at the top, by [`Error::chain`].
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The chain with kinds and places in the code, for developers.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} ({}:{})",
            self.kind,
            self.what,
            self.at.file(),
            self.at.line()
        )?;
        match &self.source {
            Some(source) => write!(f, "\n  because {source:?}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Says what was tried when something failed.
pub trait Context<T> {
    /// Wraps the error with a kind and what was tried on which object.
    #[track_caller]
    fn context(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T>;

    /// As [`Context::context`], with the kind that an operating system error implies, or the kind of our own
    /// error where it already is one.
    #[track_caller]
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T> {
        let at = Location::caller();
        self.map_err(|e| Error {
            kind,
            what: what(),
            at,
            source: Some(e.into()),
        })
    }

    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        let at = Location::caller();
        self.map_err(|e| {
            let kind = implied(&e);
            Error {
                kind,
                what: what(),
                at,
                source: Some(e.into()),
            }
        })
    }
}

fn implied(error: &(dyn StdError + 'static)) -> Kind {
    use std::io::ErrorKind;
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.kind;
    }
    let io = match error.downcast_ref::<nix::Error>() {
        Some(errno) => std::io::Error::from(*errno).kind(),
        None => error
            .downcast_ref::<std::io::Error>()
            .map_or(ErrorKind::Other, |e| e.kind()),
    };
    match io {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::Exists,
        ErrorKind::PermissionDenied => Kind::Denied,
        ErrorKind::TimedOut => Kind::Timeout,
        ErrorKind::InvalidInput | ErrorKind::InvalidData => Kind::Invalid,
        ErrorKind::Unsupported => Kind::Unsupported,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_and_the_kind_comes_from_the_cause() {
        let error = std::fs::read("/no/such/file").attempt(|| "read /no/such/file".into());
        let error = error.attempt(|| "open bundle b1".into()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.chain(),
            "open bundle b1: read /no/such/file: No such file or directory (os error 2)"
        );
        assert!(format!("{error:?}").contains("error.rs:"));
    }

    #[test]
    fn an_explicit_kind_wins() {
        let error = Err::<(), _>(nix::Error::EPERM).context(Kind::Guest, || "mount /proc".into());
        assert_eq!(error.unwrap_err().kind(), Kind::Guest);
        let error = Err::<(), _>(nix::Error::EPERM).attempt(|| "mount /proc".into());
        assert_eq!(error.unwrap_err().kind(), Kind::Denied);
    }
}
