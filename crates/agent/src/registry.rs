// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Things by name, each name once: taken first, filled when the thing exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base::{Error, Kind, Result};

use crate::lock::lock;

/// The things of one kind.
#[derive(Debug)]
pub struct Registry<T> {
    /// What one is called, for messages.
    kind: &'static str,
    /// None while it is being made.
    slots: Mutex<HashMap<String, Option<Arc<T>>>>,
}

/// A name that is taken; free again when this is dropped before [`Reserved::fill`].
#[derive(Debug)]
pub struct Reserved<'a, T> {
    registry: &'a Registry<T>,
    name: &'a str,
}

impl<T> Registry<T> {
    /// Without things.
    pub fn new(kind: &'static str) -> Registry<T> {
        Registry {
            kind,
            slots: Mutex::default(),
        }
    }

    /// Takes a name. Errors: `Exists`.
    pub fn reserve<'a>(&'a self, name: &'a str) -> Result<Reserved<'a, T>> {
        let mut slots = lock(&self.slots);
        if slots.contains_key(name) {
            return Err(Error::new(Kind::Exists, format!("{} {name} exists", self.kind)));
        }
        slots.insert(name.to_owned(), None);
        Ok(Reserved { registry: self, name })
    }

    /// The thing. Errors: `NotFound`; `State` while it is being made.
    pub fn get(&self, name: &str) -> Result<Arc<T>> {
        let fail = |kind, why: &str| Err(Error::new(kind, format!("{} {name} {why}", self.kind)));
        match lock(&self.slots).get(name) {
            Some(Some(thing)) => Ok(Arc::clone(thing)),
            Some(None) => fail(Kind::State, "is being created"),
            None => fail(Kind::NotFound, "does not exist"),
        }
    }

    /// Forgets it.
    pub fn remove(&self, name: &str) {
        lock(&self.slots).remove(name);
    }

    /// All that exist, with their names.
    pub fn all(&self) -> Vec<(String, Arc<T>)> {
        let slots = lock(&self.slots);
        let there = slots
            .iter()
            .filter_map(|(name, thing)| Some((name.clone(), Arc::clone(thing.as_ref()?))));
        there.collect()
    }
}

impl<T> Reserved<'_, T> {
    /// It exists now.
    pub fn fill(self, thing: Arc<T>) {
        lock(&self.registry.slots).insert(self.name.to_owned(), Some(thing));
    }
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        let mut slots = lock(&self.registry.slots);
        if slots.get(self.name).is_some_and(Option::is_none) {
            slots.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_comes_back_when_nothing_was_made() {
        let registry = Registry::<u32>::new("thing");
        let taken = registry.reserve("a").unwrap();
        assert_eq!(registry.reserve("a").unwrap_err().kind(), Kind::Exists);
        assert_eq!(registry.get("a").unwrap_err().kind(), Kind::State);
        assert!(registry.all().is_empty());
        drop(taken);
        assert_eq!(registry.get("a").unwrap_err().kind(), Kind::NotFound);
        registry.reserve("a").unwrap().fill(Arc::new(7));
        assert_eq!(*registry.get("a").unwrap(), 7);
        assert_eq!(registry.reserve("a").unwrap_err().chain(), "thing a exists");
        assert_eq!(registry.all().len(), 1);
        registry.remove("a");
        assert_eq!(registry.get("a").unwrap_err().chain(), "thing a does not exist");
    }
}
