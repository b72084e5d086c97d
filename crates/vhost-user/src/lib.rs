// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Serves a device core over a vhost-user socket, to QEMU or Cloud Hypervisor.
//!
//! The frontend is in the same trust zone as we are, but its guest is not: what comes through the rings is the core's business,
//! here only addresses are checked.

mod frontend;
mod sys;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use base::{Context, Kind, Result};
use vhost::vhost_user::{BackendReqHandler, Error as WireError};
use virtio::Device;

use crate::frontend::Frontend;

/// Waits for the frontend, then serves it until it disconnects.
pub fn accept(name: &str, listener: &UnixListener, device: Box<dyn Device>) -> Result<()> {
    let (stream, _) = listener.accept().attempt(|| format!("accept the frontend of {name}"))?;
    serve(name, stream, device)
}

/// Serves `device` to one frontend until it disconnects.
pub fn serve(name: &str, stream: UnixStream, device: Box<dyn Device>) -> Result<()> {
    let frontend = Frontend::new(name, device)?;
    let mut handler = BackendReqHandler::from_stream(stream, Arc::new(Mutex::new(frontend)));
    loop {
        match handler.handle_request() {
            Ok(()) => {}
            Err(WireError::Disconnected | WireError::PartialMessage) => return Ok(()),
            Err(WireError::SocketBroken(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e).context(Kind::Gone, || format!("serve the frontend of {name}")),
        }
    }
}
