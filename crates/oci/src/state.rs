// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The document that `state` and `list` print and that hooks read: the fields of runc, in its order.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made; seen by nobody but its maker.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// A container as the outside sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// `ociVersion` of its spec.
    pub oci_version: String,
    /// Its name.
    pub id: String,
    /// Host process that stands for it; 0 when it has stopped.
    pub pid: u32,
    /// Where it stands.
    pub status: Status,
    /// Absolute path.
    pub bundle: PathBuf,
    /// Absolute path.
    pub rootfs: PathBuf,
    /// RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Of its spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who made it; runc prints it empty here and as a user's name in `list`.
    pub owner: String,
}

/// `time` as [`State::created`] has it: RFC 3339, UTC, up to nine digits of a second.
pub fn timestamp(time: OffsetDateTime) -> String {
    time.to_offset(time::UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_fields_of_runc_in_its_order() {
        let mut state = State {
            oci_version: "1.0.2-dev".into(),
            id: "c1".into(),
            pid: 7,
            status: Status::Created,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: timestamp(OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_120_000_000).unwrap()),
            annotations: BTreeMap::new(),
            owner: String::new(),
        };
        let text = serde_json::to_string(&state).unwrap();
        let want = r#"{"ociVersion":"1.0.2-dev","id":"c1","pid":7,"status":"created","bundle":"/b","rootfs":"/b/rootfs","created":"2023-11-14T22:13:20.12Z","owner":""}"#;
        assert_eq!(text, want);
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        state.annotations.insert("a".into(), "b".into());
        let text = serde_json::to_string(&state).unwrap();
        assert!(text.contains(r#""annotations":{"a":"b"},"owner""#), "{text}");
        assert_eq!(format!("{:<12}|", Status::Running), "running     |");
    }
}
