// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Long work of `kata guest`: it is shown step by step, and a signal stops it without leaving anything behind.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use guest_image::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// Runs `work` on a thread of its own, which an interrupt asks to stop: its guards undo what is half done.
pub fn interruptible<T: Send + 'static>(work: impl FnOnce(&Steps) -> Result<T> + Send + 'static) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let immune = ignores_hangups();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .attempt(|| "start a runtime".into())?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).attempt(|| "watch for SIGINT".into())?;
        let mut terminate = signal(SignalKind::terminate()).attempt(|| "watch for SIGTERM".into())?;
        let mut hangup = signal(SignalKind::hangup()).attempt(|| "watch for SIGHUP".into())?;
        let steps = Steps::new(Arc::clone(&stop));
        let mut work = tokio::task::spawn_blocking(move || work(&steps));
        let done = tokio::select! {
            done = &mut work => done,
            _ = interrupt.recv() => { stop.store(true, Ordering::Relaxed); work.await }
            _ = terminate.recv() => { stop.store(true, Ordering::Relaxed); work.await }
            _ = hangup.recv(), if !immune => { stop.store(true, Ordering::Relaxed); work.await }
        };
        done.context(Kind::Bug, || "finish the work".into())?
    })
}

/// Whether the end of a terminal shall not stop us: `nohup` says so by ignoring the signal.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Shows steps: one moving line on a terminal, plain lines elsewhere.
pub struct Steps {
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
}

impl Steps {
    fn new(stop: Arc<AtomicBool>) -> Steps {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]");
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            style.map_or(bar.clone(), |style| bar.with_style(style))
        });
        Steps { bar, stop }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Steps {
    fn step(&self, what: &str) -> Result<()> {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
        self.check()
    }

    fn detail(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::State, "interrupted, nothing was changed"));
        }
        Ok(())
    }
}
