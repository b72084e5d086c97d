// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How long the calls of a service take.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::Durations;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request, Response};

/// The same service, whose calls are timed.
pub fn timed(service: Service, durations: &Arc<Durations>) -> Service {
    let methods = service.methods.into_iter().map(|(name, call)| {
        let timed = Timed {
            action: snake(&name),
            call,
            durations: Arc::clone(durations),
        };
        (name, Box::new(timed) as Box<dyn MethodHandler + Send + Sync>)
    });
    Service {
        methods: methods.collect(),
        streams: service.streams,
    }
}

struct Timed {
    action: String,
    call: Box<dyn MethodHandler + Send + Sync>,
    durations: Arc<Durations>,
}

#[async_trait]
impl MethodHandler for Timed {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let begin = Instant::now();
        let answer = self.call.handler(context, request).await;
        self.durations.note(&self.action, begin.elapsed());
        answer
    }
}

/// As Kata calls it: `ResizePty` is resize_pty, `CloseIO` close_io.
fn snake(name: &str) -> String {
    let mut text = String::new();
    let mut small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && small {
            text.push('_');
        }
        small = c.is_ascii_lowercase();
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_named_as_katas() {
        for (name, action) in [
            ("ResizePty", "resize_pty"),
            ("CloseIO", "close_io"),
            ("Create", "create"),
        ] {
            assert_eq!(snake(name), action);
        }
    }
}
