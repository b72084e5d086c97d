// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Asks sandboxes for their pages, all at once, and makes one page of them: each line gets its sandbox's id and its pod's name.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::socket::Short;
use base::{Context, Error, Kind, Result};
use metrics::durations::Histogram;
use metrics::family::{self, CRI_NAME, CRI_NAMESPACE, CRI_UID, SANDBOX_ID};
use metrics::http::{Answer, Answers, Request, get};
use metrics::page::Format;
use metrics::process::{Process, own_max_fds};
use metrics::{Page, text};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::sandboxes::{Found, Roots};

/// How long one sandbox may take; its guest has a part of that.
const PATIENCE: Duration = Duration::from_secs(8);
/// Bytes of one sandbox's page: hundreds of processors and interfaces have room.
const MOST: usize = 4 << 20;
/// Sandboxes that are asked at once.
const AT_ONCE: usize = 32;
const PLAIN: &str = "text/plain; charset=utf-8";

/// The metrics of the sandbox in `home`, as its monitor writes them. Errors: `Gone` when that has ended, `Timeout`.
pub async fn ask(home: &Path) -> Result<String> {
    let what = || format!("ask the monitor of the sandbox in {}", home.display());
    let asked = async {
        let short = Short::to(&home.join(sandbox::metrics::SOCKET))?;
        let stream = UnixStream::connect(short.path()).await;
        let stream = stream.context(Kind::Gone, || "it does not listen".into())?;
        get(stream, "/metrics", MOST).await
    };
    let late = |_| {
        Err(Error::new(
            Kind::Timeout,
            format!("no answer within {} s", PATIENCE.as_secs()),
        ))
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late);
    asked.map_err(|e| Error::new(e.kind(), what()).because(e.chain()))
}

/// All sandboxes of this node.
#[derive(Debug)]
pub struct Node {
    roots: Roots,
    scrapes: AtomicU64,
    failed: AtomicU64,
    durations: Mutex<Histogram>,
}

impl Node {
    /// Those in `roots`.
    pub fn new(roots: Roots) -> Node {
        Node {
            roots,
            scrapes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            durations: Mutex::default(),
        }
    }

    /// The page of all, with what we say of ourselves; or that of one.
    async fn page(&self, only: Option<&str>, format: Format) -> Result<Page> {
        let mut all = self.roots.sandboxes();
        if let Some(only) = only {
            all.retain(|id, _| id == only);
            if all.is_empty() {
                return Err(Error::new(Kind::NotFound, format!("there is no sandbox {only:?}")));
            }
        }
        let begin = Instant::now();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for (id, found) in all {
            let places = Arc::clone(&places);
            asked.spawn(async move {
                // Nobody closes it.
                let _place = places.acquire().await;
                let answer = ask(&found.home).await;
                (id, found, answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut page = Page::new(format);
        let mut running = 0;
        for (id, found, answer) in &answers {
            let up = match answer
                .as_deref()
                .map_err(Error::chain)
                .and_then(|text| add(text, id, found, &mut page).map_err(|e| e.chain()))
            {
                Ok(()) => true,
                // It may have gone while we asked: then there is nothing to tell of it.
                Err(_) if !found.home.exists() => continue,
                Err(why) => {
                    log::warn!("sandbox {id}: {why}");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    false
                }
            };
            running += u64::from(up);
            let labels = labels(id, found);
            page.line(&family::MONITOR_UP, "", labels.into_iter(), f64::from(u8::from(up)));
        }
        if only.is_none() {
            let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
            durations.note(begin.elapsed());
            page.histogram(&family::MONITOR_DURATIONS, &[], &durations);
            drop(durations);
            page.put(&family::MONITOR_RUNNING, Some(running));
            page.put(
                &family::MONITOR_SCRAPES,
                Some(self.scrapes.fetch_add(1, Ordering::Relaxed) + 1),
            );
            page.put(&family::MONITOR_FAILED, Some(self.failed.load(Ordering::Relaxed)));
            own(&mut page);
        }
        Ok(page)
    }
}

/// What we are.
fn own(page: &mut Page) {
    let Some(own) = Process::own() else { return };
    page.set(&family::MONITOR_CPU, &[], own.cpu_seconds());
    page.put(&family::MONITOR_OPEN_FDS, own.fds);
    page.put(&family::MONITOR_MAX_FDS, own_max_fds());
    page.put(&family::MONITOR_RESIDENT, Some(own.resident()));
    page.put(&family::MONITOR_VIRTUAL, Some(own.stat.virtual_bytes));
    if let Some(start) = own.start_time() {
        page.set(&family::MONITOR_START_TIME, &[], start);
    }
}

/// Which sandbox a line is of.
fn labels<'a>(id: &'a str, found: &'a Found) -> Vec<(&'a str, &'a str)> {
    let mut labels = vec![(SANDBOX_ID, id)];
    if let Some(pod) = &found.pod {
        let names = [
            (CRI_UID, &pod.uid),
            (CRI_NAME, &pod.name),
            (CRI_NAMESPACE, &pod.namespace),
        ];
        labels.extend(names.map(|(label, value)| (label, value.as_str())));
    }
    labels
}

/// Adds a sandbox's page; none of it, if a part of it is nonsense.
fn add(text: &str, id: &str, found: &Found, page: &mut Page) -> Result<()> {
    let labels = labels(id, found);
    for sample in text::parse(text)? {
        let own = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
        // Whose it is, we know better.
        let own = own.filter(|(name, _)| !family::COMMON.contains(name));
        page.line(
            sample.family,
            sample.part,
            own.chain(labels.iter().copied()),
            sample.number,
        );
    }
    Ok(())
}

impl Answers for Node {
    async fn answer(&self, request: Request) -> Answer {
        match request.path.as_str() {
            "/metrics" => {
                let format = Format::accepted(&request.accept);
                match self.page(request.word("sandbox"), format).await {
                    Ok(page) => Answer::found(format.content_type(), page.render()),
                    Err(e) => Answer::refused(404, &e.chain()),
                }
            }
            "/sandboxes" => {
                let ids: Vec<_> = self.roots.sandboxes().into_keys().map(|id| format!("{id}\n")).collect();
                Answer::found(PLAIN, ids.concat())
            }
            "/" => Answer::found(
                PLAIN,
                "/metrics              all sandboxes of this node\n/metrics?sandbox=ID   one of them\n/sandboxes            their ids\n"
                    .into(),
            ),
            _ => Answer::refused(404, "there is /metrics, /metrics?sandbox=ID and /sandboxes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::pod::Name;

    use super::*;

    #[test]
    fn a_page_is_added_with_its_sandboxs_labels_and_nonsense_is_not() {
        let found = Found {
            home: "/h".into(),
            pod: Some(Name {
                uid: "u".into(),
                name: "a\"b".into(),
                namespace: "n".into(),
            }),
        };
        let mut page = Page::new(Format::Text);
        let text = "kata_guest_up{sandbox_id=\"mine\"} 1\nkata_guest_load{item=\"load1\"} 2\n";
        add(text, "s1", &found, &mut page).unwrap();
        let text = page.render();
        assert!(
            text.contains("kata_guest_up{sandbox_id=\"s1\",cri_uid=\"u\",cri_name=\"a\\\"b\",cri_namespace=\"n\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("kata_guest_load{item=\"load1\",sandbox_id=\"s1\","),
            "{text}"
        );
        let error = add("kata_guest_up 1\nevil 2\n", "s2", &found, &mut page).unwrap_err();
        assert!(error.chain().contains("line 2"), "{}", error.chain());
        assert_eq!(page.render(), text);
    }
}
