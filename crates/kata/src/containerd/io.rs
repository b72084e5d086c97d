// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where containerd wants a process's streams: FIFOs that it has made, files, or a program that takes the output.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use api::task::api::{CreateTaskRequest, ExecProcessRequest};
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::errno::Errno;

use super::logger::{self, Logger};

/// How long the reader of a FIFO may take to come.
const READER: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// Paths or URIs; empty for a stream that the process does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    /// The process has a terminal, whose output is all in `stdout`.
    pub terminal: bool,
}

impl From<&CreateTaskRequest> for Places {
    fn from(request: &CreateTaskRequest) -> Places {
        Places {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl From<&ExecProcessRequest> for Places {
    fn from(request: &ExecProcessRequest) -> Places {
        Places {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

/// Streams for a process's shim, and what we hold for it.
#[derive(Debug, Default)]
pub struct Opened {
    /// Input, output, error.
    pub streams: [Option<OwnedFd>; 3],
    /// Keeps the input from ending with its writer: containerd closes it by a call of its own.
    pub input: Option<OwnedFd>,
    /// The program that takes the output.
    pub logger: Option<Pidfd>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    None,
    Fifo(&'a Path),
    File(&'a Path),
    Program(&'a str),
}

impl Place<'_> {
    fn parse(text: &str) -> Result<Place<'_>> {
        if text.is_empty() {
            return Ok(Place::None);
        }
        match text.split_once("://") {
            None => Ok(Place::Fifo(Path::new(text))),
            Some(("fifo", path)) => Ok(Place::Fifo(Path::new(path))),
            Some(("file", path)) => Ok(Place::File(Path::new(path))),
            Some(("binary", rest)) => Ok(Place::Program(rest)),
            Some((scheme, _)) => {
                let what = format!("output to {scheme:?} is not supported: fifo, file or binary");
                Err(Error::new(Kind::Unsupported, what))
            }
        }
    }
}

impl Places {
    /// Opens what there is, for a process of container `id` in containerd's `namespace`. May wait for the other side.
    pub fn open(&self, namespace: &str, id: &str) -> Result<Opened> {
        let mut opened = Opened::default();
        match Place::parse(&self.stdin)? {
            Place::None => {}
            Place::Fifo(path) => {
                opened.streams[0] = Some(fifo(path, true, false)?);
                opened.input = Some(fifo(path, false, true)?);
            }
            Place::File(_) | Place::Program(_) => {
                let what = format!("input from {:?}: only a FIFO is supported", self.stdin);
                return Err(Error::new(Kind::Unsupported, what));
            }
        }
        let stderr = if self.terminal { "" } else { &self.stderr };
        if let Place::Program(program) = Place::parse(&self.stdout)? {
            let Logger { process, outputs } = logger::start(program, namespace, id)?;
            opened.logger = Some(process);
            let [stdout, other] = outputs;
            opened.streams[1] = Some(stdout);
            opened.streams[2] = (!stderr.is_empty()).then_some(other);
            return Ok(opened);
        }
        opened.streams[1] = output(&self.stdout)?;
        opened.streams[2] = output(stderr)?;
        Ok(opened)
    }
}

fn output(place: &str) -> Result<Option<OwnedFd>> {
    match Place::parse(place)? {
        Place::None => Ok(None),
        Place::Fifo(path) => {
            let reader = await_reader(path)?;
            // We are a reader, too: one that goes (containerd is restarted) breaks nothing, the next one goes on.
            let both = fifo(path, true, true);
            // Until now: the reader would have seen an end.
            drop(reader);
            both.map(Some)
        }
        Place::File(path) => {
            let what = || format!("open {}", path.display());
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).attempt(what)?;
            }
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(0o640).open(path);
            Ok(Some(file.attempt(what)?.into()))
        }
        Place::Program(_) => {
            let what = format!("errors to {place:?} need an output to the same program");
            Err(Error::new(Kind::Unsupported, what))
        }
    }
}

fn fifo(path: &Path, read: bool, write: bool) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    let file = options
        .read(read)
        .write(write)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    file.attempt(|| format!("open {}", path.display())).map(OwnedFd::from)
}

/// A FIFO to which nobody came would keep what is written, and its reader would wait for ever if we went first.
fn await_reader(path: &Path) -> Result<OwnedFd> {
    let end = Instant::now() + READER;
    loop {
        let mut options = OpenOptions::new();
        match options.write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => return Ok(file.into()),
            Err(e) if e.raw_os_error() == Some(Errno::ENXIO as i32) && Instant::now() < end => {
                std::thread::sleep(LOOK);
            }
            Err(e) => return Err(e).attempt(|| format!("open {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn places_are_paths_and_uris() {
        let parse = |text: &'static str| Place::parse(text).unwrap();
        assert_eq!(parse(""), Place::None);
        assert_eq!(parse("/a/b"), Place::Fifo(Path::new("/a/b")));
        assert_eq!(parse("fifo:///a"), Place::Fifo(Path::new("/a")));
        assert_eq!(parse("file:///a"), Place::File(Path::new("/a")));
        assert_eq!(parse("binary:///l?x=y"), Place::Program("/l?x=y"));
        let error = Place::parse("npipe://x").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }

    #[test]
    fn an_output_survives_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let other = path.clone();
        let first = std::thread::spawn(move || fs::File::open(other).unwrap());
        let mut output = fs::File::from(output(path.to_str().unwrap()).unwrap().unwrap());
        drop(first.join().unwrap());
        output.write_all(b"for the next one").unwrap();
        let mut next = fs::File::open(&path).unwrap();
        drop(output);
        let mut text = String::new();
        next.read_to_string(&mut text).unwrap();
        assert_eq!(text, "for the next one");
    }

    #[test]
    fn files_are_appended_to_and_inputs_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let (log, input) = (dir.path().join("new/log"), dir.path().join("in"));
        mkfifo(&input, Mode::from_bits_truncate(0o600)).unwrap();
        let place = format!("file://{}", log.display());
        let places = Places {
            stdin: input.display().to_string(),
            stdout: place.clone(),
            stderr: place,
            terminal: false,
        };
        let opened = places.open("n", "c").unwrap();
        for stream in opened.streams.into_iter().skip(1).flatten() {
            fs::File::from(stream).write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "line\nline\n");
        assert!(opened.input.is_some());
        let nothing = Places::default().open("n", "c").unwrap();
        assert!(nothing.streams.iter().all(Option::is_none) && nothing.input.is_none());
    }
}
