// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Capabilities of a process: five sets, of which this process's own must be a superset.

use base::{Context, Error, Kind, Result};
use capctl::caps::{Cap, CapSet, CapState, ambient, bounding};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// The sets of a process, as this kernel knows them.
#[derive(Debug)]
pub struct Sets {
    bounding: CapSet,
    state: CapState,
    ambient: CapSet,
}

impl Sets {
    /// Absent sets are empty. What this kernel does not know is left out, with a warning for each.
    pub fn new(wanted: Option<&LinuxCapabilities>, warn: &dyn Fn(String)) -> Result<Sets> {
        let set = |pick: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            wanted
                .and_then(|wanted| pick(wanted).as_ref())
                .map_or(Ok(CapSet::empty()), |names| known(names, warn))
        };
        Ok(Sets {
            bounding: set(LinuxCapabilities::bounding)?,
            state: CapState {
                effective: set(LinuxCapabilities::effective)?,
                permitted: set(LinuxCapabilities::permitted)?,
                inheritable: set(LinuxCapabilities::inheritable)?,
            },
            ambient: set(LinuxCapabilities::ambient)?,
        })
    }

    /// Drops what the program may never get; to be done while we still may.
    pub fn bound(&self) -> Result<()> {
        for cap in Cap::iter().filter(|cap| !self.bounding.has(*cap)) {
            match bounding::drop(cap) {
                // Unknown to this kernel.
                Err(e) if e.code() == libc::EINVAL => {}
                other => other.attempt(|| format!("drop capability {cap} from the bounding set"))?,
            }
        }
        Ok(())
    }

    /// Sets the others, after the change of users.
    pub fn apply(&self, warn: &dyn Fn(String)) -> Result<()> {
        self.state
            .set_current()
            .attempt(|| format!("set capabilities {}", self.state))?;
        ambient::clear().attempt(|| "clear the ambient capabilities".into())?;
        for cap in self.raised().iter() {
            if let Err(e) = ambient::raise(cap) {
                warn(format!("raise ambient capability {cap}: {e}"));
            }
        }
        Ok(())
    }

    /// The kernel wants it permitted and inheritable; what is not is left out without a word, as with runc. The specification's
    /// example has such a set.
    fn raised(&self) -> CapSet {
        self.ambient & self.state.permitted & self.state.inheritable
    }
}

fn known(names: &Capabilities, warn: &dyn Fn(String)) -> Result<CapSet> {
    let mut set = CapSet::empty();
    for name in names {
        let cap: Cap = format!("CAP_{}", bare(&name.to_string())).parse().map_err(|_| {
            Error::new(
                Kind::Invalid,
                format!("process.capabilities: unknown capability {name}"),
            )
        })?;
        if cap.is_supported() {
            set.add(cap);
        } else {
            warn(format!("capability {name} is not known to this kernel"));
        }
    }
    Ok(set)
}

fn bare(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_spec_is_known() {
        let names: Vec<String> = Cap::iter().map(|cap| cap.to_string()).collect();
        let json = serde_json::json!({ "bounding": names, "effective": ["CAP_KILL"], "ambient": [] });
        let wanted: LinuxCapabilities = serde_json::from_value(json).unwrap();
        let sets = Sets::new(Some(&wanted), &|_| {}).unwrap();
        assert_eq!(sets.bounding, Cap::probe_supported());
        assert!(sets.state.effective.has(Cap::KILL) && sets.state.effective.size() == 1);
        assert!(sets.state.permitted.is_empty());
    }

    #[test]
    fn only_what_is_permitted_and_inheritable_can_be_ambient() {
        let json = serde_json::json!({
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL", "CAP_FOWNER"],
            "ambient": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"],
        });
        let wanted: LinuxCapabilities = serde_json::from_value(json).unwrap();
        let raised = Sets::new(Some(&wanted), &|_| {}).unwrap().raised();
        assert!(raised.has(Cap::KILL) && raised.size() == 1, "{raised:?}");
    }

    #[test]
    fn without_any_there_are_none() {
        let sets = Sets::new(None, &|_| {}).unwrap();
        assert!(sets.bounding.is_empty() && sets.state.permitted.is_empty() && sets.ambient.is_empty());
    }
}
