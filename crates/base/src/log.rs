// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The sink behind the `log` facade: one line per record, as text or as the JSON that engines read from
//! `--log` (`{"level":"error","msg":"…","time":"RFC 3339"}`).
//!
//! Levels: error = an action that the user asked for did not happen; warn = it happened, but not as asked;
//! info = steps of a container's life, with durations; debug = for us.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Context, Error, Kind, Result};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time level component: message`
    #[default]
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug)]
struct Sink {
    // Order: only ever taken alone.
    out: Mutex<Out>,
    format: Format,
    /// Written into each line; names the process's role.
    component: String,
}

#[derive(Debug)]
enum Out {
    File(File),
    Stderr,
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let level = match record.level() {
            log::Level::Warn => "warning".to_owned(),
            other => other.as_str().to_lowercase(),
        };
        let message = record.args().to_string();
        let mut line = match self.format {
            Format::Json => serde_json::json!({
                "component": self.component, "level": level, "msg": message, "time": now
            })
            .to_string(),
            Format::Text => format!("{now} {level} {}: {message}", self.component),
        };
        line.push('\n');
        // A full disk or a closed pipe must not stop the work that is logged.
        let Ok(mut out) = self.out.lock() else { return };
        let _ = match &mut *out {
            Out::File(file) => file.write_all(line.as_bytes()),
            Out::Stderr => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// Starts logging, once per process: to `path` (appended, created with mode 0600 … umask) or to stderr.
pub fn start(component: &str, path: Option<&Path>, format: Format, level: LevelFilter) -> Result<()> {
    let out = match path {
        None => Out::Stderr,
        Some(path) => options(path)
            .open(path)
            .map(Out::File)
            .attempt(|| format!("open log file {}", path.display()))?,
    };
    let sink = Sink {
        out: Mutex::new(out),
        format,
        component: component.to_owned(),
    };
    log::set_boxed_logger(Box::new(sink)).map_err(|e| Error::new(Kind::Bug, "start the log twice").because(e))?;
    log::set_max_level(level);
    Ok(())
}

/// A FIFO is opened for both ways and without blocking: a reader that has gone, or one that is slow, must not stop us.
fn options(path: &Path) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        options.read(true).custom_flags(libc::O_NONBLOCK);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_carry_level_message_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        start("test", Some(&path), Format::Json, LevelFilter::Info).unwrap();
        log::warn!("quote \" and {}", "newline\n");
        log::debug!("not written");
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "warning");
        assert_eq!(line["msg"], "quote \" and newline\n");
        assert!(line["time"].as_str().unwrap().contains('T'));
        assert_eq!(text.lines().count(), 1);
    }
}
