// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All containers of the guest, and what they share: the reaper, the events, the host's file systems.

use std::path::Path;
use std::sync::Arc;

use api::agent::{CreateContainerRequest, attachment};
use base::{Context, Error, Kind, Result};
use guest::{Attachment, Nests};

use crate::container::Container;
use crate::events::Events;
use crate::mounts::CGROUPS;
use crate::reaper::Reaper;
use crate::registry::Registry;
use crate::share::Shares;

/// See above.
#[derive(Debug)]
pub struct Containers {
    all: Registry<Container>,
    shares: Shares,
    nests: Nests,
    reaper: Arc<Reaper>,
    events: Arc<Events>,
}

impl Containers {
    /// None yet.
    pub fn new(reaper: Arc<Reaper>, events: Arc<Events>) -> Containers {
        Containers {
            all: Registry::new("container"),
            shares: Shares::default(),
            nests: Nests::new(Path::new(CGROUPS)),
            reaper,
            events,
        }
    }

    /// Does what can be done for the next one before it is known. Failing is no harm: it is done later then.
    pub fn prepare(&self) {
        if let Err(e) = self.nests.prepare() {
            log::warn!("prepare a container: {}", e.chain());
        }
    }

    /// Makes one; the pid of its init.
    pub fn create(&self, request: &CreateContainerRequest) -> Result<i32> {
        guest::validate::id(&request.id)?;
        let reserved = self.all.reserve(&request.id)?;
        let attachments = self.attachments(request)?;
        let container = Container::create(request, attachments, &self.nests, &self.reaper, &self.events)?;
        let pid = container.pid();
        reserved.fill(Arc::new(container));
        Ok(pid)
    }

    fn attachments(&self, request: &CreateContainerRequest) -> Result<Vec<Attachment>> {
        let found = request.attachments.iter().map(|attachment| {
            let what = || format!("attach {}", place(attachment.mount));
            let Some(attachment::Source::Share(share)) = &attachment.source else {
                return Err(Error::new(Kind::Invalid, what()).because("it has no source"));
            };
            let path = self.shares.find(&share.tag, &share.path).attempt(what)?;
            Ok(Attachment {
                mount: attachment.mount,
                path,
            })
        });
        found.collect()
    }

    /// One by its id.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        self.all.get(id)
    }

    /// Takes one away, see [`Container::remove`].
    pub fn remove(&self, id: &str, force: bool) -> Result<()> {
        self.get(id)?.remove(force)?;
        self.events.forget(id);
        self.all.remove(id);
        Ok(())
    }

    /// Kills everything and takes it away. What cannot be killed stays.
    pub fn clear(&self) {
        let all = self.all.all();
        for (_, container) in &all {
            if let Err(e) = container.inner().signal_all(libc::SIGKILL) {
                log::warn!("{}", e.chain());
            }
        }
        for (id, _) in &all {
            match self.remove(id, true) {
                // The host had it removed meanwhile.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => log::warn!("{}", e.chain()),
                Ok(()) => {}
            }
        }
    }
}

fn place(mount: i32) -> String {
    match mount {
        -1 => "the rootfs".to_owned(),
        mount => format!("mounts[{mount}]"),
    }
}
