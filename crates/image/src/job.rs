// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a long piece of work reports to and is stopped by. No terminal in here: the caller draws.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Error, Kind, Result};

/// What is being done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its packed bytes come over the network.
    Download,
    /// Its packed bytes are read and become files.
    Unpack,
}

/// Told about each blob; shared by threads.
pub trait Progress: Send + Sync {
    /// A blob's work begins; `total` is its packed size in bytes where known. The end is the meter's drop.
    fn begin(&self, step: Step, name: &str, total: Option<u64>) -> Box<dyn Meter>;
}

/// Counts one blob's bytes.
pub trait Meter: Send {
    /// `bytes` more.
    fn advance(&mut self, bytes: u64);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: Step, _name: &str, _total: Option<u64>) -> Box<dyn Meter> {
        Box::new(Silent)
    }
}

impl Meter for Silent {
    fn advance(&mut self, _bytes: u64) {}
}

/// A wish to stop, set from anywhere (a signal listener), seen between two steps of the work.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Errors: `Gone` once asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            Err(Error::new(Kind::Gone, "interrupted"))
        } else {
            Ok(())
        }
    }
}

/// One piece of work.
#[derive(Clone)]
pub struct Job {
    /// Where bytes are reported.
    pub progress: Arc<dyn Progress>,
    /// How it is stopped.
    pub cancel: Cancel,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

impl Default for Job {
    fn default() -> Job {
        Job {
            progress: Arc::new(Silent),
            cancel: Cancel::default(),
        }
    }
}

/// Counts what is read through it, and fails once the work is to stop.
pub(crate) struct Metered<R> {
    source: R,
    meter: Box<dyn Meter>,
    cancel: Cancel,
}

impl<R: Read> Metered<R> {
    pub(crate) fn new(source: R, meter: Box<dyn Meter>, cancel: Cancel) -> Metered<R> {
        Metered { source, meter, cancel }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let n = self.source.read(buf)?;
        self.meter.advance(n as u64);
        Ok(n)
    }
}
