// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Capabilities: docker's default set, with what `--cap-add` and `--cap-drop` change.

use std::collections::BTreeSet;

use base::{Context, Kind, Result};
use oci::spec::Capability;
use serde_json::{Value, json};

use super::super::arguments::RunArgs;

const DEFAULT: &str = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL \
    AUDIT_WRITE";

/// Every one that there is, as specs spell them.
pub fn all() -> BTreeSet<String> {
    let features = oci::features::document();
    let names = features["linux"]["capabilities"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn named(text: &str) -> Result<BTreeSet<String>> {
    let upper = text.to_uppercase();
    if upper == "ALL" {
        return Ok(all());
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let full = format!("CAP_{name}");
    serde_json::from_value::<Capability>(full.as_str().into())
        .context(Kind::Invalid, || format!("capability {name:?}"))?;
    Ok(BTreeSet::from([full]))
}

fn union(texts: &[String]) -> Result<BTreeSet<String>> {
    let mut union = BTreeSet::new();
    for text in texts {
        union.append(&mut named(text)?);
    }
    Ok(union)
}

/// `process.capabilities`: a user other than root holds only what was asked for by name.
pub fn sets(args: &RunArgs, root: bool) -> Result<Value> {
    let (mut added, dropped) = (union(&args.cap_add)?, union(&args.cap_drop)?);
    let everything = args.cap_drop.iter().any(|text| text.eq_ignore_ascii_case("all"));
    let mut bounding: BTreeSet<String> = if args.privileged {
        all()
    } else {
        DEFAULT.split_whitespace().map(|name| format!("CAP_{name}")).collect()
    };
    // What is named counts more than ALL.
    let given_all = args.cap_add.iter().any(|text| text.eq_ignore_ascii_case("all"));
    if everything && !given_all {
        bounding = added.clone();
    } else {
        added.retain(|name| !dropped.contains(name));
        bounding.extend(added.iter().cloned());
        bounding.retain(|name| !dropped.contains(name));
    }
    let held = if root { &bounding } else { &added };
    let ambient = if root { &BTreeSet::new() } else { &added };
    Ok(json!({
        "bounding": bounding, "effective": held, "permitted": held, "inheritable": ambient, "ambient": ambient
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::arguments::{Line, Verb};
    use super::*;

    fn of(options: &str, root: bool) -> Value {
        let words = format!("kata run {options} i");
        match Line::try_parse_from(words.split_whitespace()).unwrap().verb {
            Some(Verb::Run(args)) => sets(&args, root).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn count(set: &Value) -> usize {
        set.as_array().unwrap().len()
    }

    #[test]
    fn added_and_dropped() {
        let plain = of("", true);
        assert_eq!((count(&plain["bounding"]), &plain["ambient"]), (14, &json!([])));
        assert_eq!(plain["effective"], plain["bounding"]);
        let changed = of("--cap-add sys_admin --cap-drop CAP_NET_RAW", true);
        assert!(changed["effective"].to_string().contains("CAP_SYS_ADMIN"));
        assert!(!changed["bounding"].to_string().contains("NET_RAW"));
        assert_eq!(
            of("--cap-drop all --cap-add chown", true)["bounding"],
            json!(["CAP_CHOWN"])
        );
        assert_eq!(count(&of("--cap-drop ALL", true)["bounding"]), 0);
        assert_eq!(count(&of("--cap-add ALL --cap-drop chown", true)["bounding"]), 40);
        assert_eq!(count(&of("--privileged", true)["effective"]), 41);
        let user = of("--cap-add net_admin", false);
        assert_eq!(count(&user["bounding"]), 15);
        assert_eq!(user["effective"], json!(["CAP_NET_ADMIN"]));
        assert_eq!(user["ambient"], json!(["CAP_NET_ADMIN"]));
    }
}
