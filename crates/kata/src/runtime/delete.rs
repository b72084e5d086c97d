// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `delete`: by the monitor while it lives, else what it left is swept up.

use api::task::api::{DeleteRequest, DeleteResponse, Empty, KillRequest, WaitRequest, WaitResponse};
use base::{Error, Kind, Result};
use oci::{Moment, Status};

use super::container::Container;
use super::{Globals, hook};
use crate::berth;
use crate::link::{Link, TASK};

pub fn delete(globals: &Globals, id: &str, force: bool) -> Result<()> {
    delete_then(globals, id, force, || ())
}

/// As [`delete`]; `deleted` is called when the monitor has nothing left to do, and may see to it that it ends.
pub fn delete_then(globals: &Globals, id: &str, force: bool, deleted: impl FnOnce()) -> Result<()> {
    let container = match Container::find(&globals.root, id) {
        // Nothing, or what a creator left that was killed before it was done.
        Err(e) if e.kind() == Kind::NotFound && force => {
            deleted();
            return berth::clear(&globals.root.join(id));
        }
        other => other?,
    };
    let status = container.status()?;
    match status {
        Status::Stopped => {}
        Status::Created => {}
        _ if force => {}
        other => {
            let what = format!("cannot delete container {id} that is not stopped: {other}");
            return Err(Error::new(Kind::State, what));
        }
    }
    let bundle = container.bundle();
    let mut state = container.state()?;
    match container.link() {
        Ok(mut link) => by_monitor(&mut link, id, status, force)?,
        Err(e) => log::debug!("{}", e.chain()),
    }
    deleted();
    berth::clear(container.dir())?;
    (state.status, state.pid) = (Status::Stopped, 0);
    match bundle {
        Ok(bundle) => hook::run_on(&bundle, Moment::Poststop, &state),
        // Engines may remove the bundle first; then there is nobody to be told.
        Err(e) => log::debug!("{}", e.chain()),
    }
    Ok(())
}

/// Kills what runs and has the monitor take it away.
fn by_monitor(link: &mut Link, id: &str, status: Status, force: bool) -> Result<()> {
    let done = stop(link, id, status).and_then(|()| {
        let request = DeleteRequest {
            id: id.to_owned(),
            ..DeleteRequest::default()
        };
        link.call::<DeleteResponse>(TASK, "Delete", &request).map(|_| ())
    });
    match done {
        // It ended while we asked, or it cannot do what was asked: force goes on and sweeps up.
        Err(e) if force || e.kind() == Kind::Gone => {
            log::debug!("{}", e.chain());
            Ok(())
        }
        other => other,
    }
}

fn stop(link: &mut Link, id: &str, status: Status) -> Result<()> {
    if status == Status::Stopped {
        return Ok(());
    }
    let request = KillRequest {
        id: id.to_owned(),
        signal: 9,
        all: true,
        ..KillRequest::default()
    };
    // It is the guest that may be gone: a monitor that is says so at the next call.
    if let Err(e) = link.call::<Empty>(TASK, "Kill", &request) {
        log::debug!("{}", e.chain());
    }
    let request = WaitRequest {
        id: id.to_owned(),
        ..WaitRequest::default()
    };
    link.call::<WaitResponse>(TASK, "Wait", &request).map(|_| ())
}
