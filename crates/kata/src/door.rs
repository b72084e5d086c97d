// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A service's socket, and how many clients are inside: who leaves must not cut off an answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};

use base::{Context, Result};
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use ttrpc::r#async::transport::Listener;

/// See the module.
#[derive(Debug)]
pub struct Door {
    listener: Arc<UnixListener>,
    inside: Arc<watch::Sender<usize>>,
}

impl Door {
    /// For a socket that listens.
    pub fn over(listener: std::os::unix::net::UnixListener) -> Result<Door> {
        listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        let listener = UnixListener::from_std(listener).attempt(|| "watch a listener".into())?;
        Ok(Door {
            listener: Arc::new(listener),
            inside: Arc::new(watch::Sender::new(0)),
        })
    }

    /// For a server.
    pub fn listener(&self) -> Listener {
        Listener::new(Arrivals {
            listener: Arc::clone(&self.listener),
            inside: Arc::clone(&self.inside),
        })
    }

    /// Returns when nobody is inside.
    pub async fn quiet(&self) {
        // We hold the sender: it cannot be closed.
        let _ = self.inside.subscribe().wait_for(|inside| *inside == 0).await;
    }
}

struct Arrivals {
    listener: Arc<UnixListener>,
    inside: Arc<watch::Sender<usize>>,
}

impl Stream for Arrivals {
    type Item = io::Result<Visitor>;

    fn poll_next(self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_accept(poller).map(|accepted| {
            Some(accepted.map(|(stream, _)| {
                self.inside.send_modify(|inside| *inside += 1);
                Visitor {
                    stream,
                    inside: Arc::clone(&self.inside),
                }
            }))
        })
    }
}

/// One client's connection.
struct Visitor {
    stream: UnixStream,
    inside: Arc<watch::Sender<usize>>,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.inside.send_modify(|inside| *inside -= 1);
    }
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, poller: &mut Poller<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(poller, into)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, poller: &mut Poller<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(poller, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(poller)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(poller)
    }
}
