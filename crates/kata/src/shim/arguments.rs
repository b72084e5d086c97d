// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `kata shim` is started with, written and read by us alone. It goes by variables of the environment: the command line is that
//! of the process which the shim stands for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};

use super::launch::Log;
use super::stream::Streams;
use super::terminal::Size;

/// Of the names of all variables.
const PREFIX: &str = "KATA_SHIM_";

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub dir: PathBuf,
    pub id: String,
    pub exec_id: String,
    pub terminal: bool,
    pub console: Option<PathBuf>,
    pub size: Option<Size>,
    pub streams: Streams,
    /// The porcelain's directory of the container, which is told of the end.
    pub record: Option<PathBuf>,
    /// Descriptor that takes [`super::launch::READY`] or a refusal.
    pub ready: i32,
    /// Descriptor of the monitor's directory in `/proc`.
    pub monitor: i32,
    pub log: Log,
}

fn invalid(what: String) -> Error {
    Error::new(Kind::Invalid, what)
}

impl Arguments {
    /// Each member that has a value as a variable and its value.
    pub fn write(&self) -> Vec<(String, OsString)> {
        let mut variables = Vec::new();
        let mut put = |name: &str, value: &dyn AsRef<OsStr>| {
            variables.push((format!("{PREFIX}{name}"), value.as_ref().to_owned()));
        };
        put("DIR", &self.dir);
        put("ID", &self.id);
        if !self.exec_id.is_empty() {
            put("EXEC_ID", &self.exec_id);
        }
        if self.terminal {
            put("TERMINAL", &"true");
        }
        if let Some(console) = &self.console {
            put("CONSOLE_SOCKET", console);
        }
        if let Some(record) = &self.record {
            put("RECORD", record);
        }
        if let Some(size) = self.size {
            put("SIZE", &format!("{}x{}", size.rows, size.columns));
        }
        if self.streams != Streams::ALL {
            put("STREAMS", &self.streams.to_string());
        }
        put("READY_FD", &self.ready.to_string());
        put("MONITOR_FD", &self.monitor.to_string());
        if let Some(file) = &self.log.file {
            put("LOG", file);
        }
        if self.log.json {
            put("LOG_FORMAT", &"json");
        }
        if self.log.debug {
            put("DEBUG", &"true");
        }
        variables
    }

    /// Reads what [`Arguments::write`] wrote; none when there is nothing of it. Errors: `Invalid`, naming the variable.
    pub fn parse(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Option<Arguments>> {
        let ours = environment.filter_map(|(name, value)| {
            let name = name.to_str()?.strip_prefix(PREFIX)?;
            Some((name.to_owned(), value))
        });
        let ours: Vec<_> = ours.collect();
        if ours.is_empty() {
            return Ok(None);
        }
        let mut arguments = Arguments {
            ready: -1,
            monitor: -1,
            ..Arguments::default()
        };
        for (name, value) in ours {
            let path = || PathBuf::from(&value);
            let text = || value.to_string_lossy().into_owned();
            let number = || text().parse().attempt(|| format!("read {PREFIX}{name}={value:?}"));
            match name.as_str() {
                "DIR" => arguments.dir = path(),
                "ID" => arguments.id = text(),
                "EXEC_ID" => arguments.exec_id = text(),
                "TERMINAL" => arguments.terminal = true,
                "CONSOLE_SOCKET" => arguments.console = Some(path()),
                "RECORD" => arguments.record = Some(path()),
                "STREAMS" => arguments.streams = Streams::parse(&text())?,
                "SIZE" => arguments.size = Some(size(&text())?),
                "READY_FD" => arguments.ready = number()?,
                "MONITOR_FD" => arguments.monitor = number()?,
                "LOG" => arguments.log.file = Some(path()),
                "LOG_FORMAT" => arguments.log.json = text() == "json",
                "DEBUG" => arguments.log.debug = true,
                _ => return Err(invalid(format!("unknown variable {PREFIX}{name}"))),
            }
        }
        if arguments.dir.as_os_str().is_empty() || arguments.id.is_empty() {
            return Err(invalid(format!("{PREFIX}DIR and {PREFIX}ID are needed")));
        }
        Ok(Some(arguments))
    }

    /// Takes over the descriptor that the launcher waits on.
    pub fn ready(&self) -> Result<File> {
        inherited(self.ready, "READY_FD")
    }

    /// Takes over the descriptor that leads to the monitor.
    pub fn monitor(&self) -> Result<File> {
        inherited(self.monitor, "MONITOR_FD")
    }
}

fn inherited(number: i32, name: &str) -> Result<File> {
    if number < 3 {
        return Err(invalid(format!("{PREFIX}{name} is needed")));
    }
    base::inherited::take(number).map(File::from)
}

fn size(text: &str) -> Result<Size> {
    let parts = text.split_once('x');
    let parts = parts.and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
    let (rows, columns) = parts.ok_or_else(|| invalid(format!("size {text:?} is not ROWSxCOLUMNS")))?;
    Ok(Size { rows, columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let full = Arguments {
            dir: "/run/kata/c 1".into(),
            id: "c1".into(),
            exec_id: "e=1".into(),
            terminal: true,
            console: Some("/c.sock".into()),
            size: Some(Size { rows: 24, columns: 80 }),
            streams: Streams([false, true, false]),
            record: Some("/r".into()),
            ready: 5,
            monitor: 6,
            log: Log {
                file: Some("/l".into()),
                json: true,
                debug: true,
            },
        };
        let beside = [("HOME", "/root"), ("KATA_GUEST_DIR", "/g")];
        let read = |variables: Vec<(String, OsString)>| {
            let beside = beside.map(|(name, value)| (name.into(), value.into()));
            let variables = variables.into_iter().map(|(name, value)| (name.into(), value));
            Arguments::parse(variables.chain(beside))
        };
        assert_eq!(read(full.write()).unwrap(), Some(full));
        let least = Arguments {
            dir: "/d".into(),
            id: "c".into(),
            ready: 3,
            monitor: 4,
            ..Arguments::default()
        };
        assert_eq!(read(least.write()).unwrap(), Some(least));
        assert_eq!(read(Vec::new()).unwrap(), None);
        for (name, value) in [
            ("NONSENSE", "1"),
            ("SIZE", "3"),
            ("STREAMS", "3"),
            ("ID", "x"),
            ("READY_FD", "y"),
            ("MONITOR_FD", "-"),
        ] {
            assert!(read(vec![(format!("{PREFIX}{name}"), value.into())]).is_err(), "{name}");
        }
    }
}
