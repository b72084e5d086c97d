// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Commands with a deadline and their whole output.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take before it is killed and the test fails. Emulated machines on a busy host are slow, and those
/// in the KVM lab are slower: `KATA_TEST_DEADLINE` gives other seconds.
pub fn deadline() -> Duration {
    let given = std::env::var("KATA_TEST_DEADLINE").ok();
    Duration::from_secs(given.and_then(|seconds| seconds.parse().ok()).unwrap_or(120))
}

/// What a command left.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128+n when signal n ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Standard output as text, without the last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Outcome {
        assert_eq!(
            self.code,
            code,
            "exit code; stdout: {} stderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// Fails the test unless it failed with one line on stderr that contains each of `words`.
    #[track_caller]
    pub fn refuses(&self, words: &[&str]) -> &Outcome {
        assert_ne!(self.code, 0, "it should have been refused; stdout: {}", self.text());
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line says why: {}", self.stderr);
        for word in words {
            let found = self.stderr.to_lowercase().contains(&word.to_lowercase());
            assert!(found, "{word:?} is missing in: {}", self.stderr);
        }
        self
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// Waits with the deadline. A child that outlives it is killed, and the test fails.
#[track_caller]
pub fn end(child: &mut Child) -> i32 {
    end_within(child, deadline())
}

#[track_caller]
fn end_within(child: &mut Child, limit: Duration) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child of ours") {
            return code(status);
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("no end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs to the end, feeding `input`. Output goes to files: a daemon that inherits them must not hold us up.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Outcome {
    run_within(command, input, deadline())
}

/// As [`run`], with a deadline of its own.
#[track_caller]
pub fn run_within(command: &mut Command, input: &[u8], limit: Duration) -> Outcome {
    let mut out = tempfile::tempfile().expect("temporary file");
    let mut err = tempfile::tempfile().expect("temporary file");
    command.stdin(if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    });
    command
        .stdout(out.try_clone().expect("dup"))
        .stderr(err.try_clone().expect("dup"));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let feeder = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        thread::spawn(move || {
            let _ = stdin.write_all(&input);
        })
    });
    let code = end_within(&mut child, limit);
    if let Some(feeder) = feeder {
        let _ = feeder.join();
    }
    let mut outcome = Outcome {
        code,
        stdout: Vec::new(),
        stderr: String::new(),
    };
    let mut bytes = Vec::new();
    for (file, into) in [(&mut out, &mut outcome.stdout), (&mut err, &mut bytes)] {
        use std::io::Seek;
        file.rewind().expect("rewind");
        file.read_to_end(into).expect("read back");
    }
    outcome.stderr = String::from_utf8_lossy(&bytes).into_owned();
    outcome
}

/// Polls until `what` holds; the test fails after the deadline.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        let limit = deadline();
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
