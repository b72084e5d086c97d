// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A case as the test runner sees it. A case for both runtimes must hold on runc first: one that does not is wrong itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};

use crate::{Runtime, World, leak};

/// What a case returns when it did not fail.
#[derive(Debug)]
pub enum Verdict {
    Held,
    /// Could not be tried here, and why.
    Skipped(String),
}

impl From<()> for Verdict {
    fn from((): ()) -> Verdict {
        Verdict::Held
    }
}

fn attempt<V: Into<Verdict>>(runtime: Runtime, case: impl Fn(&World) -> V) -> Result<Verdict, Failed> {
    let world = World::new(runtime);
    let outcome = catch_unwind(AssertUnwindSafe(|| case(&world).into()));
    let text = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    };
    match outcome {
        Ok(verdict) => {
            let left = catch_unwind(AssertUnwindSafe(|| leak::check(&world)));
            left.map(|()| verdict).map_err(|panic| {
                leak::sweep(&world);
                Failed::from(format!("on {runtime:?}: {}", text(panic)))
            })
        }
        Err(panic) => {
            let log = std::fs::read_to_string(world.dir().join("log")).unwrap_or_default();
            leak::sweep(&world);
            Err(Failed::from(format!("on {runtime:?}: {}\n{log}", text(panic))))
        }
    }
}

fn completion(verdict: Verdict) -> Completion {
    match verdict {
        Verdict::Held => Completion::Completed,
        Verdict::Skipped(why) => Completion::ignored_with(why),
    }
}

/// A behaviour of OCI runtimes: proved on runc, then looked for in ours.
pub fn both<V: Into<Verdict>>(name: &str, case: impl Fn(&World) -> V + Send + Sync + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        if !only("ours") {
            let has_reference = Command::new("runc").arg("--version").output().is_ok();
            if !has_reference {
                return Ok(Completion::ignored_with("runc, the reference, is not installed"));
            }
            if let Verdict::Skipped(why) = attempt(Runtime::Reference, &case)? {
                return Ok(Completion::ignored_with(why));
            }
        }
        if only("runc") {
            return Ok(Completion::Completed);
        }
        attempt(Runtime::Ours, &case).map(completion)
    })
}

/// `KATA_TEST_RUNTIME=runc` proves the cases themselves: those for both runtimes run on the reference alone. With `ours`
/// somebody else has proved them.
fn only(runtime: &str) -> bool {
    std::env::var_os("KATA_TEST_RUNTIME").is_some_and(|name| name == runtime)
}

/// What only ours does.
pub fn ours<V: Into<Verdict>>(name: &str, case: impl Fn(&World) -> V + Send + Sync + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        if only("runc") {
            return Ok(Completion::ignored_with(
                "KATA_TEST_RUNTIME=runc looks at the reference alone",
            ));
        }
        attempt(Runtime::Ours, &case).map(completion)
    })
}
