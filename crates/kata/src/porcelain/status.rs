// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where a container stands, from what is on disk and what its monitor says; and how long ago things were.

use std::fmt;
use std::path::Path;

use base::{Kind, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::record::{Place, Record};
use crate::runtime::container::Container;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Its maker is at work.
    Creating,
    Created,
    Running,
    Paused,
    /// With this code; when, if anybody saw it.
    Exited(u8, Option<String>),
    /// It has ended, and nobody saw how: its makers were killed, or the machine restarted.
    Dead,
}

impl Status {
    /// Of a container of the runtime's directory `root`.
    pub fn of(place: &Place, record: Option<&Record>, root: &Path) -> Result<Status> {
        if let Some(ended) = place.ended()? {
            return Ok(Status::Exited(ended.code, Some(ended.at)));
        }
        let container = match record.map(|record| Container::find(root, &record.id)) {
            Some(Ok(container)) => container,
            Some(Err(e)) if e.kind() != Kind::NotFound => return Err(e),
            _ => {
                let busy = place.try_hold()?.is_none();
                return Ok(if busy { Status::Creating } else { Status::Dead });
            }
        };
        Ok(match container.status()? {
            oci::Status::Creating => Status::Creating,
            oci::Status::Created => Status::Created,
            oci::Status::Running => Status::Running,
            oci::Status::Paused => Status::Paused,
            oci::Status::Stopped => {
                let code = container.exit_code()?;
                code.map_or(Status::Dead, |code| Status::Exited(code, None))
            }
        })
    }

    /// It has a process that can be signalled.
    pub fn lives(&self) -> bool {
        matches!(self, Status::Created | Status::Running | Status::Paused)
    }

    /// It has a process, or will have.
    pub fn is_over(&self) -> bool {
        matches!(self, Status::Exited(..) | Status::Dead)
    }

    /// As `ps` shows it; `created` is when it was made.
    pub fn text(&self, created: &str, now: OffsetDateTime) -> String {
        let up = || age(created, now).map_or(String::new(), |age| format!(" {age}"));
        match self {
            Status::Running => format!("Up{}", up()),
            Status::Paused => format!("Up{} (Paused)", up()),
            Status::Exited(code, at) => {
                let ago = at.as_deref().and_then(|at| age(at, now));
                let ago = ago.map_or(String::new(), |ago| format!(" {ago} ago"));
                format!("Exited ({code}){ago}")
            }
            Status::Creating => "Creating".into(),
            Status::Created => "Created".into(),
            Status::Dead => "Dead".into(),
        }
    }
}

/// One word.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Exited(..) => "exited",
            Status::Dead => "dead",
        })
    }
}

/// How long before `now` a moment (RFC 3339) was, in words.
pub fn age(then: &str, now: OffsetDateTime) -> Option<String> {
    let seconds = (now - moment(then)?).whole_seconds().max(0);
    let units = [
        (2 * 365 * 86_400, 365 * 86_400, "years"),
        (60 * 86_400, 30 * 86_400, "months"),
        (14 * 86_400, 7 * 86_400, "weeks"),
        (48 * 3600, 86_400, "days"),
        (120 * 60, 3600, "hours"),
        (120, 60, "minutes"),
    ];
    let unit = units.iter().find(|(from, ..)| seconds >= *from);
    Some(match unit {
        Some((_, size, name)) => format!("{} {name}", seconds / size),
        None if seconds == 1 => "1 second".into(),
        None => format!("{seconds} seconds"),
    })
}

/// A moment as we write it.
pub fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use api::task::api::Status as TaskStatus;

    use super::super::record::tests::record;
    use super::*;
    use crate::runtime::container::stub;

    #[test]
    fn ages_in_words() {
        let now = moment("2026-11-24T10:00:00Z").unwrap();
        for (then, want) in [
            ("2026-11-24T10:00:05Z", "0 seconds"),
            ("2026-11-24T09:59:59Z", "1 second"),
            ("2026-11-24T09:58:01Z", "119 seconds"),
            ("2026-11-24T09:58:00Z", "2 minutes"),
            ("2026-11-24T07:00:00Z", "3 hours"),
            ("2026-11-21T09:00:00Z", "3 days"),
            ("2026-11-01T09:00:00Z", "3 weeks"),
            ("2026-06-01T09:00:00Z", "5 months"),
            ("2020-06-01T09:00:00Z", "6 years"),
        ] {
            assert_eq!(age(then, now).as_deref(), Some(want));
        }
        assert_eq!(age("yesterday", now), None);
    }

    #[test]
    fn what_is_on_disk_counts_then_what_the_monitor_says() {
        let top = tempfile::tempdir().unwrap();
        let (root, path) = (top.path().join("run"), top.path().join("box"));
        std::fs::create_dir(&path).unwrap();
        let place = Place::new(path);
        let record = record("c1", "box");
        let status = || Status::of(&place, Some(&record), &root).unwrap();
        assert_eq!(status(), Status::Dead, "no monitor ever");
        assert_eq!(Status::of(&place, None, &root).unwrap(), Status::Dead);
        let held = place.try_hold().unwrap();
        assert_eq!(status(), Status::Creating);
        drop(held);
        stub::record(&root, "c1");
        for (told, want) in [
            (TaskStatus::RUNNING, Status::Running),
            (TaskStatus::PAUSED, Status::Paused),
            (TaskStatus::STOPPED, Status::Exited(0, None)),
        ] {
            let monitor = stub::monitor(&root, "c1", told);
            assert_eq!(status(), want);
            monitor.stop();
            std::fs::remove_file(root.join("c1/sandbox/monitor.sock")).unwrap();
        }
        assert_eq!(status(), Status::Dead, "the monitor has gone");
        place.end(4).unwrap();
        let now = OffsetDateTime::now_utc();
        assert!(status().text("", now).starts_with("Exited (4) 0 seconds ago"));
        assert!(status().is_over() && !status().lives());
    }
}
