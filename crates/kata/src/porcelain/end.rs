// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What is done when a container has ended, by whoever carried its process: the exit code is kept, or all of it goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Kind, Result};

use super::record::Place;
use super::records::Records;
use crate::runtime::{Globals, delete};
use crate::shim::Log;

/// Called by the shim of a detached container, whose directory is `dir` and whose record is in `record`.
pub fn ended(record: PathBuf, dir: &Path, id: &str, code: u8) -> Result<()> {
    let place = Place::new(record);
    let records = Records::of(&place)?;
    let globals = Globals {
        root: dir.parent().unwrap_or(dir).to_owned(),
        log: Log::default(),
        systemd_cgroup: false,
        user_network: None,
        settings: Arc::default(),
    };
    note(&records, &place, id, code, || delete::delete(&globals, id, true))
}

/// Notes the end of the container with this id, unless somebody has removed it. First `leave` does what is left to do outside.
pub fn note(records: &Records, place: &Place, id: &str, code: u8, leave: impl FnOnce() -> Result<()>) -> Result<()> {
    // Its maker may not have let go yet; who removes it waits for us.
    let _held = match place.hold() {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let Some(record) = place.record()?.filter(|record| record.id == id) else {
        return Ok(());
    };
    place.end(code)?;
    leave()?;
    if record.remove {
        records.discard(place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn the_code_is_kept_or_all_goes_and_another_container_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let (sandbox, state) = (top.path().join("run/c1"), top.path().join("state"));
        let records = Records::at(state).unwrap();
        let place = records.reserve(Some("box")).unwrap().keep();
        let mut record = record("c1", "box");
        place.write(&record).unwrap();
        std::fs::create_dir_all(&sandbox).unwrap();
        let end = |id: &str| ended(place.path().to_owned(), &sandbox, id, 7).unwrap();
        end("c2");
        assert_eq!(place.ended().unwrap(), None);
        end("c1");
        assert_eq!(place.ended().unwrap().unwrap().code, 7);
        assert!(!sandbox.exists());
        record.remove = true;
        place.write(&record).unwrap();
        end("c1");
        assert!(!place.path().exists());
        end("c1");
    }
}
