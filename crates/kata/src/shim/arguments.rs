// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The command line of `kata shim`, written and read by us alone.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};

use super::launch::Log;
use super::stream::Streams;
use super::terminal::Size;

/// What the shim is started with.
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
    pub log: Log,
}

fn invalid(what: String) -> Error {
    Error::new(Kind::Invalid, what)
}

impl Arguments {
    /// Each member that has a value as `--name=value`.
    pub fn write(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut put = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            words.push(word);
        };
        put("dir", &self.dir);
        put("id", &self.id);
        if !self.exec_id.is_empty() {
            put("exec-id", &self.exec_id);
        }
        if self.terminal {
            put("terminal", &"true");
        }
        if let Some(console) = &self.console {
            put("console-socket", console);
        }
        if let Some(record) = &self.record {
            put("record", record);
        }
        if let Some(size) = self.size {
            put("size", &format!("{}x{}", size.rows, size.columns));
        }
        if self.streams != Streams::ALL {
            put("streams", &self.streams.to_string());
        }
        put("ready-fd", &self.ready.to_string());
        words.extend(self.log.arguments());
        words
    }

    /// Reads what [`Arguments::write`] wrote. Errors: `Invalid`, naming the word.
    pub fn parse(args: &[OsString]) -> Result<Arguments> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut arguments = Arguments {
            ready: -1,
            ..Arguments::default()
        };
        for word in args {
            let bytes = word.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=');
            let at = at.ok_or_else(|| invalid(format!("argument {word:?} is not --name=value")))?;
            let path = || PathBuf::from(OsString::from_vec(bytes[at + 1..].to_vec()));
            let text = || String::from_utf8_lossy(&bytes[at + 1..]).into_owned();
            match &bytes[..at] {
                b"--dir" => arguments.dir = path(),
                b"--id" => arguments.id = text(),
                b"--exec-id" => arguments.exec_id = text(),
                b"--terminal" => arguments.terminal = true,
                b"--console-socket" => arguments.console = Some(path()),
                b"--record" => arguments.record = Some(path()),
                b"--streams" => arguments.streams = Streams::parse(&text())?,
                b"--size" => arguments.size = Some(size(&text())?),
                b"--ready-fd" => arguments.ready = text().parse().attempt(|| format!("read argument {word:?}"))?,
                b"--log" => arguments.log.file = Some(path()),
                b"--log-format" => arguments.log.json = text() == "json",
                b"--debug" => arguments.log.debug = true,
                _ => return Err(invalid(format!("unknown argument {word:?}"))),
            }
        }
        if arguments.dir.as_os_str().is_empty() || arguments.id.is_empty() {
            return Err(invalid("--dir and --id are needed".into()));
        }
        Ok(arguments)
    }

    /// Takes over the descriptor that the launcher waits on.
    pub fn ready(&self) -> Result<File> {
        if self.ready < 3 {
            return Err(invalid("--ready-fd is needed".into()));
        }
        let fd = base::inherited::take(self.ready)?;
        Ok(File::from(fd))
    }
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
            log: Log {
                file: Some("/l".into()),
                json: true,
                debug: true,
            },
        };
        assert_eq!(Arguments::parse(&full.write()).unwrap(), full);
        let least = Arguments {
            dir: "/d".into(),
            id: "c".into(),
            ready: 3,
            ..Arguments::default()
        };
        assert_eq!(Arguments::parse(&least.write()).unwrap(), least);
        for bad in ["--dir", "--nonsense=1", "--size=3", "--streams=3", "--id=x"] {
            assert!(Arguments::parse(&[bad.into()]).is_err(), "{bad}");
        }
    }
}
