// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One command in the lab: its terminal is ours, its exit code comes back.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

use crate::hidden::{self, Shown};
use crate::machine::{Machine, refusal};
use crate::sys;

/// What of our environment the command gets: by the beginning of the name.
const ENVIRONMENT: [&str; 9] = [
    "PATH", "HOME", "USER", "TERM", "LANG", "KATA_", "CARGO_", "RUST", "LAB_",
];

/// Runs `command` in `tree`, which is where it is here; returns its exit code.
pub async fn run(mut lab: Machine, tree: &Path, command: &str) -> Result<u8> {
    let terminal = Terminal::take()?;
    let (rows, columns) = terminal.as_ref().map_or((0, 0), |_| sys::window());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let environment = environment();
    let shown = hidden::needed(environment.iter().map(|(_, value)| value.as_str()), tree);
    let words = format!(
        "{} {rows} {columns} {} {}\n{}\n{}\n",
        now.as_secs(),
        u8::from(lab.copied),
        tree.display(),
        escape(&lines(&shown)),
        escape(&script(&environment, tree, command)?)
    );
    let output = pump(&lab, terminal.is_some())?;
    lab.say(&words)?;
    let said = lab.hear()?;
    let code = said.strip_prefix("exit ").and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| refusal(&said))?;
    // Its end closes the console behind the last byte.
    lab.qmp.execute("quit", json!({})).await?;
    lab.wait()?;
    drop(lab);
    let _ = output.join();
    Ok(code)
}

/// Carries the console or, where we have no terminal, the output. What the command prints waits here, not in QEMU.
fn pump(lab: &Machine, interactive: bool) -> Result<thread::JoinHandle<()>> {
    let copy = |stream: &UnixStream| stream.try_clone().attempt(|| "duplicate a socket".into());
    let mut from = copy(if interactive { &lab.console } else { &lab.output })?;
    if interactive {
        let mut to = copy(&lab.console)?;
        // Ends with us: there is no way to interrupt a read of the terminal.
        thread::spawn(move || io::copy(&mut io::stdin(), &mut to));
    }
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let Some(bytes) = buffer.get(..length) else { break };
            if sender.send(bytes.to_vec()).is_err() {
                break;
            }
        }
    });
    Ok(thread::spawn(move || {
        let mut out = io::stdout();
        for bytes in receiver {
            // Whoever does not want our output any more still wants the exit code.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
    }))
}

/// Names and values of what the command gets of our environment.
fn environment() -> Vec<(String, String)> {
    let passed = |name: &str| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        plain && ENVIRONMENT.iter().any(|start| name.starts_with(start))
    };
    // What is not text is nothing of these.
    let texts = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| passed(name)).collect()
}

/// A script that runs `command` here as there.
fn script(environment: &[(String, String)], tree: &Path, command: &str) -> Result<String> {
    let here = env::current_dir().attempt(|| "find the current directory".into())?;
    let mut script = String::new();
    for (name, value) in environment {
        script.push_str(&format!("export {name}={}\n", quote(value)));
    }
    let dir = if here.starts_with(tree) { &here } else { tree };
    script.push_str(&format!("cd {} || exit\n{command}\n", quote(&dir.to_string_lossy())));
    Ok(script)
}

/// Places in the host's files and in the lab's, a line for each word: a name has no line break, `hidden` sees to it.
fn lines(shown: &[Shown]) -> String {
    let pairs = shown
        .iter()
        .map(|shown| format!("{}\n{}\n", shown.source.display(), shown.at.display()));
    pairs.collect()
}

/// For a shell.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// One line that `printf %b` expands to `text`.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n")
}

/// Our terminal in raw mode, where there is one; the command's terminal does what is to be done. Restored on drop.
struct Terminal(Termios);

impl Terminal {
    fn take() -> Result<Option<Terminal>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let tried = || "set up the terminal".to_owned();
        let before = tcgetattr(io::stdin().as_fd()).attempt(tried)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &raw).attempt(tried)?;
        Ok(Some(Terminal(before)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only if the terminal is gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_travels_as_one_line() {
        assert_eq!(escape("echo \"a\\nb\"\nexit 3\n"), r#"echo "a\\nb"\nexit 3\n"#);
        assert_eq!(quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_script_goes_to_where_it_was_called() {
        let script = script(&environment(), Path::new("/no/such/tree"), "true").unwrap();
        assert!(script.ends_with("cd '/no/such/tree' || exit\ntrue\n"), "{script}");
        assert!(script.contains("export PATH='"), "{script}");
    }
}
