// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata inspect`: all that is known of containers, as a JSON array.

use base::{Context, Kind, Result};
use serde_json::{Value, json};

use super::status::Status;
use super::{Failure, Here};
use crate::runtime::container::Container;
use crate::runtime::print;

pub fn inspect(here: &Here, names: &[String]) -> Result<u8, Failure> {
    let all = names.iter().map(|name| one(here, name)).collect::<Result<Vec<_>>>()?;
    let text = serde_json::to_string_pretty(&all).context(Kind::Bug, || "write the answer".into())?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

fn one(here: &Here, name: &str) -> Result<Value> {
    let (place, record) = here.records.known(name)?;
    let status = Status::of(&place, Some(&record), &here.root)?;
    let (code, at) = match &status {
        Status::Exited(code, at) => (Some(*code), at.clone()),
        _ => (None, None),
    };
    let lives = status
        .lives()
        .then(|| Container::find(&here.root, &record.id).ok())
        .flatten();
    // Whatever the config is: it is shown, not judged.
    let spec = std::fs::read(place.bundle().join("config.json")).unwrap_or_default();
    let spec: Value = serde_json::from_slice(&spec).unwrap_or_default();
    Ok(json!({
        "id": record.id,
        "name": record.name,
        "image": record.image,
        "command": record.command,
        "created": record.created,
        "state": {
            "status": status.to_string(),
            "pid": lives.map_or(0, |container| container.carrier()),
            "exitCode": code,
            "finished": at
        },
        "ports": record.ports,
        "autoRemove": record.remove,
        "stopSignal": record.stop_signal,
        "layers": record.layers,
        "directory": place.path(),
        "bundle": place.bundle(),
        "output": record.logged.then(|| place.output()),
        "log": place.log(),
        "spec": spec
    }))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::records::Records;
    use super::*;

    #[test]
    fn what_is_known_is_told() {
        let top = tempfile::tempdir().unwrap();
        let here = Here {
            records: Records::at(top.path().join("state")).unwrap(),
            root: top.path().join("run"),
            settings: std::sync::Arc::default(),
        };
        let place = here.records.reserve(Some("box")).unwrap().keep();
        place.write(&record("c1", "box")).unwrap();
        place.end(5).unwrap();
        let known = one(&here, "c1").unwrap();
        assert_eq!(
            (&known["name"], &known["state"]["exitCode"]),
            (&json!("box"), &json!(5))
        );
        assert_eq!(one(&here, "x").unwrap_err().kind(), Kind::NotFound);
    }
}
