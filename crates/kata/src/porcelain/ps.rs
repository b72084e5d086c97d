// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata ps`: a table of the containers, the newest first.

use base::{Context, Kind, Result};
use serde_json::json;
use time::OffsetDateTime;

use super::arguments::PsArgs;
use super::record::Record;
use super::status::{Status, age, moment};
use super::{Failure, Here, publish};
use crate::runtime::print;
use crate::runtime::table::table;

/// Characters of a command in the table.
const COMMAND: usize = 30;

#[derive(Debug)]
struct Row {
    name: String,
    /// None for one that was never made.
    record: Option<Record>,
    status: Status,
}

pub fn ps(here: &Here, args: &PsArgs) -> Result<u8, Failure> {
    let rows = rows(here, args.all)?;
    let text = if args.json {
        let all: Vec<_> = rows.iter().map(object).collect();
        let text = serde_json::to_string_pretty(&all).context(Kind::Bug, || "write the list".into())?;
        format!("{text}\n")
    } else if args.quiet {
        rows.iter().map(|row| format!("{}\n", id(row, args.no_trunc))).collect()
    } else {
        lines(&rows, args.no_trunc, OffsetDateTime::now_utc())
    };
    print(&text)?;
    Ok(0)
}

fn rows(here: &Here, all: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for place in here.records.list()? {
        let found = place.record().and_then(|record| {
            let status = Status::of(&place, record.as_ref(), &here.root)?;
            Ok((record, status))
        });
        match found {
            Ok((record, status)) if all || !status.is_over() => rows.push(Row {
                name: place.name(),
                record,
                status,
            }),
            // It may have gone while we looked.
            Err(e) if e.kind() != Kind::NotFound => log::warn!("container {}: {}", place.name(), e.chain()),
            _ => {}
        }
    }
    rows.sort_by_key(|row| {
        let created = row.record.as_ref().and_then(|record| moment(&record.created));
        std::cmp::Reverse(created)
    });
    Ok(rows)
}

fn id(row: &Row, full: bool) -> &str {
    match &row.record {
        Some(record) if full => &record.id,
        Some(record) => record.short(),
        None => &row.name,
    }
}

fn lines(rows: &[Row], full: bool, now: OffsetDateTime) -> String {
    let head = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]
    .map(str::to_owned);
    let line = |row: &Row| {
        let created = row.record.as_ref().map_or("", |record| &record.created);
        let ports = match &row.record {
            Some(record) if !row.status.is_over() => publish::list(&record.ports),
            _ => String::new(),
        };
        let command = row
            .record
            .as_ref()
            .map_or(String::new(), |record| record.command.join(" "));
        [
            row.record.as_ref().map_or(String::new(), |_| id(row, full).to_owned()),
            row.record.as_ref().map_or(String::new(), |record| record.image.clone()),
            row.record.as_ref().map_or(String::new(), |_| quoted(&command, full)),
            age(created, now).map_or(String::new(), |age| format!("{age} ago")),
            row.status.text(created, now),
            ports,
            row.name.clone(),
        ]
    };
    let all: Vec<_> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    table(&all)
}

/// On one line, and not too long.
fn quoted(command: &str, full: bool) -> String {
    let plain: String = command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if full || plain.chars().count() <= COMMAND {
        return format!("\"{plain}\"");
    }
    let start: String = plain.chars().take(COMMAND - 1).collect();
    format!("\"{start}…\"")
}

fn object(row: &Row) -> serde_json::Value {
    let code = match &row.status {
        Status::Exited(code, _) => Some(*code),
        _ => None,
    };
    let record = row.record.as_ref();
    json!({
        "id": record.map(|record| &record.id),
        "name": row.name,
        "image": record.map(|record| &record.image),
        "command": record.map(|record| &record.command),
        "created": record.map(|record| &record.created),
        "ports": record.map(|record| &record.ports),
        "status": row.status.to_string(),
        "exitCode": code
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::records::Records;
    use super::*;

    #[test]
    fn the_table_has_those_that_are_asked_for() {
        let top = tempfile::tempdir().unwrap();
        let here = Here {
            records: Records::at(top.path().join("state")).unwrap(),
            root: top.path().join("run"),
            settings: std::sync::Arc::default(),
        };
        for (name, code) in [("one", Some(3)), ("two", None)] {
            let place = here.records.reserve(Some(name)).unwrap().keep();
            let mut record = record(&format!("{name}-0123456789abc"), name);
            record.command = vec!["sh".into(), "-c".into(), "echo a\necho a long line that is cut".into()];
            place.write(&record).unwrap();
            if let Some(code) = code {
                place.end(code).unwrap();
            }
        }
        let half = here.records.reserve(Some("half")).unwrap();
        assert_eq!(rows(&here, false).unwrap().len(), 1, "one is being made");
        let all = rows(&here, true).unwrap();
        let text = lines(&all, false, moment("2026-11-24T10:00:05Z").unwrap());
        let find = |name: &str| text.lines().find(|line| line.ends_with(name)).unwrap();
        assert!(text.starts_with("CONTAINER ID"));
        assert!(find("one").starts_with("one-01234567 "), "{text}");
        assert!(
            find("one").contains("rootfs:/x   \"sh -c echo a echo a long line…\"   5 seconds ago   Exited (3)"),
            "{text}"
        );
        assert!(find("two").contains("Dead"));
        assert!(find("half").contains("Creating"));
        let object = object(all.iter().find(|row| row.name == "one").unwrap());
        assert_eq!((&object["status"], &object["exitCode"]), (&json!("exited"), &json!(3)));
        drop(half);
    }
}
