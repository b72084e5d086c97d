// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A connection to a sandbox's monitor for many calls at once. Programs of one thread have [`crate::link`].

use std::path::Path;

use api::monitor_ttrpc::MonitorClient;
use api::task::shim_async::{Client, TaskClient};
use base::{Context, Error, Kind, Result};
use ttrpc::asynchronous::transport::Socket;

/// See the module.
#[derive(Clone)]
pub struct Monitor {
    /// containerd's service.
    pub task: TaskClient,
    /// Ours.
    pub own: MonitorClient,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Connects to that of the sandbox in `dir`.
    pub fn open(dir: &Path) -> Result<Monitor> {
        let what = || format!("connect to the monitor in {}", dir.display());
        let socket = base::socket::connect(&dir.join("monitor.sock"))?;
        socket.set_nonblocking(true).attempt(what)?;
        let socket = tokio::net::UnixStream::from_std(socket).attempt(what)?;
        let client = Client::new(Socket::new(socket));
        Ok(Monitor {
            task: TaskClient::new(client.clone()),
            own: MonitorClient::new(client),
        })
    }
}

/// What the monitor said, with its kind.
pub fn told<T>(id: &str, answer: ttrpc::Result<T>) -> Result<T> {
    answer.map_err(|e| match e {
        ttrpc::Error::RpcStatus(_) => api::kind::error(format!("container {id}"), e),
        other => Error::new(Kind::Gone, format!("the monitor of container {id} has ended")).because(other),
    })
}

/// For calls that may take as long as they like.
pub fn patient() -> ttrpc::context::Context {
    ttrpc::context::Context::default()
}
