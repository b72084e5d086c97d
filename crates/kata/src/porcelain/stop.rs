// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata stop` and `kata kill`.

use std::time::{Duration, Instant};

use api::task::api::{WaitRequest, WaitResponse};
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};

use super::Here;
use super::status::Status;
use crate::link::TASK;
use crate::runtime::container::Container;
use crate::runtime::verbs;

/// How long whoever carried a process may take to note its end.
const SETTLE: Duration = Duration::from_secs(10);

/// Its signal, and KILL after so many seconds; fine when it has ended already.
pub fn stop(here: &Here, name: &str, seconds: u32) -> Result<()> {
    let (place, record) = here.records.known(name)?;
    match Status::of(&place, Some(&record), &here.root)? {
        Status::Creating => {
            return Err(Error::new(Kind::State, format!("container {name} is still being made")));
        }
        status if status.is_over() => return Ok(()),
        _ => {}
    }
    let limit = Duration::from_secs(u64::from(seconds));
    end(here, &record.id, &record.stop_signal, limit).attempt(|| format!("stop {name}"))
}

/// Ends a container of the runtime, and waits until its end is noted.
pub fn end(here: &Here, id: &str, signal: &str, limit: Duration) -> Result<()> {
    let container = match Container::find(&here.root, id) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    send(here, id, signal, false)?;
    if !wait(&container, Some(limit))? {
        send(here, id, "KILL", true)?;
        wait(&container, None)?;
    }
    if let Ok(carrier) = i32::try_from(container.carrier())
        && let Ok(carrier) = Pidfd::open(carrier)
    {
        carrier.wait(Some(SETTLE))?;
    }
    Ok(())
}

pub fn kill(here: &Here, name: &str, signal: &str) -> Result<()> {
    let (place, record) = here.records.known(name)?;
    if !Status::of(&place, Some(&record), &here.root)?.lives() {
        return Err(Error::new(Kind::State, format!("container {name} is not running")));
    }
    verbs::kill(&here.globals(None), &record.id, signal, false).attempt(|| format!("kill {name}"))
}

/// Fine when there is nobody left to hear it.
fn send(here: &Here, id: &str, signal: &str, all: bool) -> Result<()> {
    match verbs::kill(&here.globals(None), id, signal, all) {
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone | Kind::State) => {
            log::debug!("{}", e.chain());
            Ok(())
        }
        other => other,
    }
}

/// False when it has not ended within `limit`.
fn wait(container: &Container, limit: Option<Duration>) -> Result<bool> {
    let request = WaitRequest {
        id: container.id().to_owned(),
        ..WaitRequest::default()
    };
    let waited = container.link().and_then(|mut link| {
        let Some(limit) = limit else {
            return link.call::<WaitResponse>(TASK, "Wait", &request).map(|_| true);
        };
        let end = Instant::now() + limit;
        let ticket = link.send(TASK, "Wait", &request)?;
        while let Some(answer) = link.receive_within(end.saturating_duration_since(Instant::now()))? {
            if answer.ticket == ticket {
                return answer.parse::<WaitResponse>("wait failed").map(|_| true);
            }
        }
        Ok(false)
    });
    match waited {
        // Without its monitor nothing of it lives.
        Err(e) if matches!(e.kind(), Kind::Gone | Kind::NotFound) => Ok(true),
        other => other,
    }
}
