// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which backends there are, the better first, and which of them a machine gets.

use base::{Context, Error, Kind, Result};

use crate::qemu::Qemu;
use crate::{Backend, SavedMachine, process};

/// All backends of this build, in the order in which `auto` tries them.
pub fn backends() -> Vec<Box<dyn Backend>> {
    vec![Box::new(Qemu::Kvm), Box::new(Qemu::Tcg)]
}

/// What can be wanted: `auto`, each family, each backend.
pub fn names() -> Vec<&'static str> {
    let mut names = vec![AUTO];
    for backend in backends() {
        let name = backend.name();
        let family = name.split('-').next().unwrap_or(name);
        for name in [family, name] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// The backend with the wanted name; a family's name (`qemu`) or `auto` (also none at all) means the first one in it that
/// works here. Errors: `Invalid` for an unknown name, `Unsupported` when none works here, with the reason.
pub fn choose(wanted: Option<&str>) -> Result<Box<dyn Backend>> {
    choose_of(backends(), wanted.unwrap_or(AUTO))
}

/// Any backend.
const AUTO: &str = "auto";

fn choose_of(all: Vec<Box<dyn Backend>>, wanted: &str) -> Result<Box<dyn Backend>> {
    let known: Vec<&str> = all.iter().map(|backend| backend.name()).collect();
    let unknown = || {
        let what = format!(
            "unknown hypervisor {wanted:?}: use auto, qemu, or one of {}",
            known.join(", ")
        );
        Error::new(Kind::Invalid, what)
    };
    let meant = |name: &str| {
        let family = name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
        wanted == AUTO || name == wanted || family && !wanted.is_empty()
    };
    let mut refused: Option<(&str, Error)> = None;
    for backend in all.into_iter().filter(|backend| meant(backend.name())) {
        match (backend.check(), refused) {
            (Ok(()), None) => return Ok(backend),
            (Ok(()), Some((name, why))) => {
                log::info!("hypervisor {}, not {name}: {}", backend.name(), why.chain());
                return Ok(backend);
            }
            (Err(why), _) => refused = Some((backend.name(), why)),
        }
    }
    match refused {
        Some((name, why)) => Err(why).attempt(|| format!("use hypervisor {name}")),
        None => Err(unknown()),
    }
}

/// Ends what a saved machine left running, after a crash of its owner. False when nothing was left.
pub fn clean(saved: &SavedMachine) -> Result<bool> {
    process::kill_leftover(saved.pid, saved.start_time)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use async_trait::async_trait;

    use super::*;
    use crate::{Caps, Machine, MachineSpec};

    #[derive(Debug)]
    struct Named(&'static str, bool);

    #[async_trait]
    impl Backend for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn caps(&self) -> Caps {
            Caps {
                own_devices: true,
                pause: false,
                accelerated: false,
                templates: false,
            }
        }
        fn check(&self) -> Result<()> {
            if self.1 {
                Ok(())
            } else {
                Err(Error::new(Kind::Unsupported, "no hardware"))
            }
        }
        async fn launch(&self, _: &MachineSpec, _: &Path) -> Result<Box<dyn Machine>> {
            Err(Error::new(Kind::Unsupported, "only a name"))
        }
    }

    fn chosen(wanted: &str) -> Result<&'static str> {
        let all = [("q-fast", false), ("q-slow", true), ("other", true), ("broken", false)];
        let all = all
            .iter()
            .map(|(name, works)| Box::new(Named(name, *works)) as Box<dyn Backend>);
        choose_of(all.collect(), wanted).map(|backend| backend.name())
    }

    #[test]
    fn a_family_means_its_first_member_that_works() {
        assert_eq!(chosen("auto").unwrap(), "q-slow");
        assert_eq!(chosen("q").unwrap(), "q-slow");
        assert_eq!(chosen("other").unwrap(), "other");
    }

    #[test]
    fn a_name_that_does_not_work_here_is_not_replaced() {
        let error = chosen("q-fast").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.chain(), "use hypervisor q-fast: no hardware");
        for unknown in ["", "xen", "q-", "oth", "q-fas"] {
            assert_eq!(chosen(unknown).unwrap_err().kind(), Kind::Invalid, "{unknown}");
        }
    }

    #[test]
    fn every_host_has_some_backend() {
        assert!(choose(None).is_ok());
    }
}
