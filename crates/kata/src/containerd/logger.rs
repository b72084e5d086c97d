// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A program that takes a container's output, `binary:///path?name=value`: it reads the output on descriptor 3 and the errors on 4,
//! and closes 5 when it is ready.
//!
//! It is started by way of ourselves: whoever has threads cannot put descriptors in such places.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::{TYPE, sys};

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(10);

/// One that is ready.
#[derive(Debug)]
pub struct Logger {
    /// A child of ours.
    pub process: Pidfd,
    /// What the process writes to: output, errors.
    pub outputs: [OwnedFd; 2],
}

/// Starts the one that `uri` (without `binary://`) names, for container `id` in containerd's `namespace`.
pub fn start(uri: &str, namespace: &str, id: &str) -> Result<Logger> {
    let (program, words) = parse(uri);
    let what = || format!("start the logging program {program}");
    let pipe = || pipe2(OFlag::O_CLOEXEC).attempt(what);
    let ((out, stdout), (err, stderr), (ready, told)) = (pipe()?, pipe()?, pipe()?);
    let passed = [out.as_fd(), err.as_fd(), told.as_fd()];
    let mut command = Command::new("/proc/self/exe");
    command.arg0(super::program(TYPE)).arg("log");
    command.args(passed.map(|fd| fd.as_raw_fd().to_string()));
    command.arg(&program).args(&words);
    // As with runc's shim: nothing of ours.
    command.env_clear();
    command.env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", namespace);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let child = base::inherited::spawn(&mut command, &passed).attempt(what)?;
    let process = Pidfd::open(i32::try_from(child.id()).unwrap_or_default()).attempt(what)?;
    drop((out, err, told));
    if let Err(e) = await_ready(ready) {
        let _ = process.kill();
        let _ = process.reap();
        return Err(e).attempt(what);
    }
    if process.wait(Some(Duration::ZERO))? {
        let code = process.reap()?;
        return Err(Error::new(Kind::Io, what()).because(format!("it ended at once with code {code}")));
    }
    Ok(Logger {
        process,
        outputs: [stdout, stderr],
    })
}

fn await_ready(ready: OwnedFd) -> Result<()> {
    let timeout = PollTimeout::try_from(READY.as_millis()).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(0) => Err(Error::new(
            Kind::Timeout,
            format!("not ready after {} s", READY.as_secs()),
        )),
        Ok(_) => {
            let mut file = std::fs::File::from(ready);
            file.read(&mut [0])
                .attempt(|| "wait until it is ready".into())
                .map(drop)
        }
        Err(e) => Err(e).attempt(|| "wait until it is ready".into()),
    }
}

/// The program, and its arguments in the order of the query: each name, and its value if it has one.
fn parse(uri: &str) -> (String, Vec<String>) {
    let (program, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut words = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        words.push(decoded(name, true));
        if !value.is_empty() {
            words.push(decoded(value, true));
        }
    }
    (decoded(program, false), words)
}

/// Percent signs, and in a query plus signs, stand for other characters.
fn decoded(text: &str, query: bool) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = more;
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            (b'+', _) if query => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `line`: three descriptors, the program, its arguments. Returns only to say why it did not become it.
pub fn become_it(line: &[OsString]) -> Result<()> {
    let [out, err, told, program, words @ ..] = line else {
        return Err(Error::new(
            Kind::Invalid,
            "log: three descriptors and a program are needed",
        ));
    };
    let take = |word: &OsString| -> Result<OwnedFd> {
        let number = word.to_string_lossy().parse();
        base::inherited::take(number.attempt(|| format!("descriptor {}", word.display()))?)
    };
    sys::place([take(out)?, take(err)?, take(told)?], 3).attempt(|| "put descriptors in their places".into())?;
    let failed = Command::new(program).args(words).exec();
    Err(failed).attempt(|| format!("start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_a_program_with_arguments() {
        let (program, words) = parse("/usr/bin/n%20l?_INTERNAL=%2Fvar%2Flib&flag&id=a+b");
        assert_eq!(program, "/usr/bin/n l");
        assert_eq!(words, ["_INTERNAL", "/var/lib", "flag", "id", "a b"]);
        assert_eq!(parse("/l"), ("/l".to_owned(), Vec::new()));
        assert_eq!(decoded("100%", false), "100%");
        assert_eq!(decoded("%zz%C3%BC", false), "%zzü");
    }
}
