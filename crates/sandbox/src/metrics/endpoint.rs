// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The sandbox's socket for metrics, with Kata's name and paths: `/metrics`, and `/agent-url`, where the agent can be dialled.

use std::path::Path;
use std::sync::Arc;

use base::{Context, Result};
use metrics::http::{Answer, Answers, Request, serve};
use metrics::page::Format;
use tokio::net::UnixListener;

use crate::device::HYBRID;
use crate::sandbox::Sandbox;

/// Its name, in the sandbox's directory.
pub const SOCKET: &str = "shim-monitor.sock";

/// Serves it from now on.
pub fn open(dir: &Path, sandbox: &Arc<Sandbox>) -> Result<()> {
    let listener = base::socket::listen(&dir.join(SOCKET))?;
    listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
    let listener = UnixListener::from_std(listener).attempt(|| "watch a listener".into())?;
    let agent = dir.join(HYBRID);
    let endpoint = Endpoint {
        sandbox: Arc::clone(sandbox),
        agent: format!("hvsock://{}:{}", agent.display(), api::port::CONTROL),
    };
    tokio::spawn(serve(listener, Arc::new(endpoint)));
    Ok(())
}

struct Endpoint {
    sandbox: Arc<Sandbox>,
    /// Where it listens.
    agent: String,
}

impl Answers for Endpoint {
    async fn answer(&self, request: Request) -> Answer {
        match request.path.as_str() {
            "/metrics" => {
                let format = Format::accepted(&request.accept);
                Answer::found(format.content_type(), self.sandbox.page(format).await.render())
            }
            "/agent-url" if self.sandbox.is_up() => Answer::found("text/plain; charset=utf-8", self.agent.clone()),
            "/agent-url" => Answer::refused(503, "the machine of the sandbox is not up"),
            _ => Answer::refused(404, "there is /metrics and /agent-url"),
        }
    }
}
