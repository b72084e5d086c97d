// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata rm`: the container goes with its record, its changes, its output and its nameless volumes.

use std::time::Duration;

use base::{Error, Kind, Result};

use super::status::Status;
use super::{Here, stop};
use crate::runtime::delete;

pub fn rm(here: &Here, name: &str, force: bool) -> Result<()> {
    let place = match here.records.find(name) {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let record = match place.record() {
        // What cannot be read cannot be run either.
        Err(e) if force => {
            log::warn!("{}", e.chain());
            None
        }
        other => other?,
    };
    let wrong = |why: &str| Err(Error::new(Kind::State, format!("container {name} {why}")));
    match (Status::of(&place, record.as_ref(), &here.root), &record) {
        (Ok(status), _) if status.is_over() => {}
        (Ok(Status::Creating), _) => return wrong("is still being made"),
        (Ok(_), _) if !force => return wrong("is running: stop it first, or use --force"),
        (Err(e), _) if !force => return Err(e),
        (_, Some(record)) => stop::end(here, &record.id, "KILL", Duration::ZERO)?,
        (_, None) => {}
    }
    // Whoever notes its end is soon done.
    let _held = match place.hold() {
        // It has gone by itself.
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    if let Some(record) = &record {
        delete::delete(&here.globals(None), &record.id, true)?;
    }
    here.records.discard(&place)
}

#[cfg(test)]
mod tests {
    use api::task::api::Status as TaskStatus;

    use super::super::record::tests::record;
    use super::super::records::Records;
    use super::*;
    use crate::runtime::container::stub;

    #[test]
    fn what_runs_needs_force_and_what_is_half_made_goes_too() {
        let top = tempfile::tempdir().unwrap();
        let here = Here {
            records: Records::at(top.path().join("state")).unwrap(),
            root: top.path().join("run"),
            settings: std::sync::Arc::default(),
        };
        let place = here.records.reserve(Some("box")).unwrap().keep();
        place.write(&record("c1", "box")).unwrap();
        stub::record(&here.root, "c1");
        let monitor = stub::monitor(&here.root, "c1", TaskStatus::RUNNING);
        let refused = rm(&here, "box", false).unwrap_err().chain();
        assert!(refused.contains("container box is running"), "{refused}");
        monitor.stop();
        // The monitor has gone: so has all that ran.
        rm(&here, "box", false).unwrap();
        assert!(!place.path().exists() && !here.root.join("c1").exists());
        assert_eq!(rm(&here, "box", false).unwrap_err().kind(), Kind::NotFound);
        rm(&here, "box", true).unwrap();

        let half = here.records.reserve(Some("half")).unwrap();
        assert!(
            rm(&here, "half", true)
                .unwrap_err()
                .chain()
                .contains("still being made")
        );
        let place = half.keep();
        std::fs::write(place.path().join("record.json"), "{").unwrap();
        assert!(rm(&here, "half", false).is_err());
        rm(&here, "half", true).unwrap();
        assert!(here.records.list().unwrap().is_empty());
    }
}
