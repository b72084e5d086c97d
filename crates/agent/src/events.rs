// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What happens to containers without being asked for, in order, until the host fetches it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use api::agent::{Event, Oom, event};
use guest::cgroup::OomWatch;
use tokio::sync::Notify;

use crate::lock::lock;
use crate::sys;

/// Events that were not fetched yet.
#[derive(Debug, Default)]
pub struct Events {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(String, u64)>,
    /// How many kills of each container have been told.
    told: HashMap<String, u64>,
}

impl Events {
    /// The kernel has killed `count` processes of the container so far. Told if that is news.
    pub fn oom(&self, id: &str, count: u64) {
        let mut state = lock(&self.state);
        let told = state.told.entry(id.to_owned()).or_default();
        if count <= *told {
            return;
        }
        *told = count;
        match state.queue.back_mut() {
            // Not fetched yet: it says the newer count.
            Some((last, old)) if last == id => *old = count,
            _ => state.queue.push_back((id.to_owned(), count)),
        }
        drop(state);
        self.came.notify_one();
    }

    /// The container is gone; what was not fetched stays.
    pub fn forget(&self, id: &str) {
        lock(&self.state).told.remove(id);
    }

    /// The oldest, when there is one.
    pub async fn next(&self) -> Event {
        loop {
            let came = self.came.notified();
            if let Some((id, count)) = self.take() {
                return event(id, count);
            }
            came.await;
        }
    }

    fn take(&self) -> Option<(String, u64)> {
        let mut state = lock(&self.state);
        let first = state.queue.pop_front();
        if !state.queue.is_empty() {
            // For the next one who waits.
            self.came.notify_one();
        }
        first
    }

    /// Tells the kills of one container until its cgroup is removed.
    pub async fn follow(self: Arc<Events>, id: String, watch: OomWatch) {
        let watch = match sys::watch_oom(watch) {
            Ok(watch) => watch,
            Err(e) => return log::warn!("OOM kills of container {id} are not told: {e}"),
        };
        while let Ok(mut ready) = watch.readable().await {
            // Before it is drained: what comes later counts again.
            ready.clear_ready();
            match watch.get_ref().drain() {
                Some(count) => self.oom(&id, count),
                None => return,
            }
        }
    }
}

fn event(id: String, count: u64) -> Event {
    let oom = Oom {
        count,
        ..Oom::default()
    };
    Event {
        id,
        kind: Some(event::Kind::Oom(oom)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(events: &Events) -> Vec<(String, u64)> {
        std::iter::from_fn(|| events.take()).collect()
    }

    #[test]
    fn counts_are_told_once_in_order_and_grow() {
        let events = Events::default();
        events.oom("a", 0);
        events.oom("a", 1);
        events.oom("b", 1);
        events.oom("a", 1);
        events.oom("a", 2);
        events.oom("a", 4);
        let expected = [("a", 1), ("b", 1), ("a", 4)].map(|(id, count)| (id.to_owned(), count));
        assert_eq!(all(&events), expected);
        events.forget("a");
        events.oom("a", 1);
        assert_eq!(all(&events), [("a".to_owned(), 1)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_who_wait_get_one_each() {
        let events = Arc::new(Events::default());
        let wait = || {
            let events = Arc::clone(&events);
            tokio::spawn(async move { events.next().await.id })
        };
        let waiting = [wait(), wait()];
        tokio::task::yield_now().await;
        events.oom("a", 1);
        events.oom("b", 1);
        let mut ids = Vec::new();
        for one in waiting {
            ids.push(one.await.unwrap());
        }
        ids.sort();
        assert_eq!(ids, ["a", "b"]);
    }
}
