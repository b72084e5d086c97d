// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One process of a container, as its sandbox keeps it.

use std::time::SystemTime;

use api::agent::Stdio;
use serde::{Deserialize, Serialize};

/// Exit status of a process that was lost with its machine: as after SIGKILL.
pub const LOST: u32 = 128 + 9;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128+n after signal n.
    pub status: u32,
    /// Nanoseconds since the epoch.
    pub at_ns: u64,
    /// Why, when it was not the process's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Exit {
    /// Lost now, because of `reason`.
    pub fn lost(reason: impl Into<String>) -> Exit {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Exit {
            status: LOST,
            at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            reason: Some(reason.into()),
        }
    }
}

/// Where a process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// A further process that is not made yet: its `process` object as JSON.
    Defined(Vec<u8>),
    /// Being made in the guest.
    Making,
    /// The container's init, which waits for `start`.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Ended(Exit),
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Process {
    /// Where it stands.
    pub stage: Stage,
    /// Which streams it has.
    pub stdio: Stdio,
    /// It has a terminal.
    pub terminal: bool,
    /// The host process that stands for it, from its attachment until its own end.
    pub carrier: Option<u32>,
    /// Why it is being killed, when we do that.
    pub doom: Option<String>,
}

impl Process {
    /// One that stands at `stage`.
    pub fn new(stage: Stage, terminal: bool, stdio: Stdio) -> Process {
        Process {
            stage,
            stdio,
            terminal,
            carrier: None,
            doom: None,
        }
    }

    /// How it ended, once it has.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.stage {
            Stage::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    /// It exists in the guest.
    pub fn alive(&self) -> bool {
        matches!(self.stage, Stage::Making | Stage::Created | Stage::Running)
    }

    /// Records its end; the first record counts.
    pub fn end(&mut self, mut exit: Exit) {
        if self.exit().is_none() {
            exit.reason = self.doom.take().or(exit.reason);
            self.stage = Stage::Ended(exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts_and_our_own_reason_wins() {
        let mut process = Process::new(Stage::Running, false, Stdio::new());
        process.doom = Some("its shim has gone".into());
        process.end(Exit::lost("the machine ended"));
        process.end(Exit::lost("again"));
        let exit = process.exit().unwrap();
        assert_eq!((exit.status, exit.reason.as_deref()), (137, Some("its shim has gone")));
        assert!(!process.alive());
    }
}
