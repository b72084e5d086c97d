// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a client does with a runtime, by name. Each is printed as it was seen, a line that `scripts/behaviours` makes a table of:
//! `behaviour: CLIENT | WHAT | RUNTIME | holds`.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Runtime, World};

/// Those of one client in one case. One that fails does not keep the others from being looked at.
#[derive(Debug)]
pub struct Behaviours<'a> {
    client: &'a str,
    runtime: Runtime,
    failed: Vec<String>,
}

impl<'a> Behaviours<'a> {
    /// None yet.
    pub fn new(client: &'a str, world: &World) -> Behaviours<'a> {
        Behaviours {
            client,
            runtime: world.runtime,
            failed: Vec::new(),
        }
    }

    /// Looks at one.
    pub fn see(&mut self, what: &str, check: impl FnOnce()) {
        self.look(what, "holds", check);
    }

    /// Looks at one in which ours is known to differ from the reference: `check` holds what it does instead.
    pub fn differs(&mut self, what: &str, how: &str, check: impl FnOnce()) {
        self.look(what, &format!("differs: {how}"), check);
    }

    /// One that this machine cannot show, and why.
    pub fn cannot(&self, what: &str, why: &str) {
        self.say(what, &format!("not tried: {why}"));
    }

    /// Fails the case if one of them did not hold.
    #[track_caller]
    pub fn end(self) {
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n"));
    }

    fn look(&mut self, what: &str, result: &str, check: impl FnOnce()) {
        match catch_unwind(AssertUnwindSafe(check)) {
            Ok(()) => self.say(what, result),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.say(what, "FAILS");
                self.failed.push(format!("{what}: {}", text.unwrap_or_default()));
            }
        }
    }

    fn say(&self, what: &str, result: &str) {
        let runtime = match self.runtime {
            Runtime::Reference => "runc",
            Runtime::Ours => "kata",
        };
        let line = format!("behaviour: {} | {what} | {runtime} | {result}\n", self.client);
        // A whole line, whatever else is printed.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}
