// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Tells containerd what happens to tasks, in order. It may be away for a while: then it is told when it is back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::task::api::ForwardRequest;
use api::task::shim::event::Envelope;
use api::task::shim_async::{Client, EventsClient};
use base::{Context, Kind, Result};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::transport::Socket;

use super::now;

/// How long one event may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often an event is offered, with longer and longer pauses between.
const TRIES: u32 = 6;
/// The first of these pauses.
const PAUSE: Duration = Duration::from_millis(200);
/// How many events wait at most; containerd has been away for long then.
const WAITING: usize = 2048;

/// See the module.
#[derive(Debug, Clone)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Event(Box<Envelope>),
    /// Everything before it has been told, or given up.
    Flush(oneshot::Sender<()>),
}

impl Publisher {
    /// For containerd's namespace, at the address that containerd gave us: its own with `.ttrpc` behind it.
    pub fn start(namespace: &str, address: PathBuf) -> Publisher {
        let (queue, items) = mpsc::channel(WAITING);
        tokio::spawn(forward(address, items));
        Publisher {
            namespace: namespace.to_owned(),
            queue,
        }
    }

    /// Has containerd told of `event`, which belongs to `topic`. Returns at once.
    pub fn publish<E: Message>(&self, topic: &str, event: &E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(e) => return log::error!("write event {topic}: {e}"),
        };
        let event = Any {
            type_url: format!("containerd.events.{}", E::NAME),
            value,
            ..Any::default()
        };
        let envelope = Envelope {
            timestamp: now(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event).into(),
            ..Envelope::default()
        };
        if self.queue.try_send(Item::Event(Box::new(envelope))).is_err() {
            log::warn!("event {topic} is lost: containerd does not take events");
        }
    }

    /// Returns when all events so far have been told, or `limit` is over.
    pub async fn flush(&self, limit: Duration) {
        let (done, told) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            let _ = tokio::time::timeout(limit, told).await;
        }
    }
}

async fn forward(address: PathBuf, mut items: mpsc::Receiver<Item>) {
    let mut client = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Flush(done) => {
                let _ = done.send(());
            }
            Item::Event(envelope) => {
                let topic = envelope.topic.clone();
                let request = ForwardRequest {
                    envelope: Some(*envelope).into(),
                    ..ForwardRequest::default()
                };
                if let Err(e) = offer(&address, &mut client, &request).await {
                    log::warn!("event {topic} is lost: {}", e.chain());
                }
            }
        }
    }
}

async fn offer(address: &Path, client: &mut Option<EventsClient>, request: &ForwardRequest) -> Result<()> {
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        match once(address, client, request).await {
            Err(e) if left > 0 => {
                log::debug!("{}", e.chain());
                *client = None;
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            other => return other,
        }
    }
    Ok(())
}

async fn once(address: &Path, client: &mut Option<EventsClient>, request: &ForwardRequest) -> Result<()> {
    let what = || format!("tell containerd at {}", address.display());
    let client = match client {
        Some(client) => client,
        None => {
            let socket = tokio::net::UnixStream::connect(address).await.attempt(what)?;
            client.insert(EventsClient::new(Client::new(Socket::new(socket))))
        }
    };
    let limit = i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX);
    let told = client.forward(ttrpc::context::with_timeout(limit), request).await;
    told.context(Kind::Gone, what).map(drop)
}
