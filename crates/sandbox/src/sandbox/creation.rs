// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a container of a sandbox comes to be: it is expected, then made, with all that it needs on the host and in the guest. One that comes
//! to nothing leaves nothing.

use std::sync::Arc;
use std::time::Instant;

use api::agent::{CreateContainerRequest, Namespace};
use base::{Context, Error, Kind, Result};
use machine::DISK_CARDS;
use oci::Bundle;
use oci::pod::Part;

use super::{Create, LAG, Phase, Sandbox, State};
use crate::changes::{self, Changes};
use crate::container::Container;
use crate::guest::Guest;
use crate::layers;
use crate::namespace;
use crate::origin::Origin;
use crate::process::{Process, Stage};
use crate::root::Root;
use crate::share::{self, Placed};
use crate::size::Limits;
use crate::turn::Turn;

impl Sandbox {
    /// Keeps a place for a container that will be created by somebody in `origin`. Errors: `Exists`; `Gone` when the machine ends.
    pub fn expect(&self, id: &str, origin: Origin) -> Result<()> {
        let mut state = self.state();
        if state.ending() {
            return Err(Error::new(Kind::Gone, "the machine of the sandbox has ended"));
        }
        if state.containers.contains_key(id) || state.expected.contains_key(id) {
            return Err(Error::new(Kind::Exists, format!("container {id} exists already")));
        }
        state.expected.insert(id.to_owned(), origin);
        Ok(())
    }

    /// It will not be created, or has been.
    pub fn unexpect(&self, id: &str) {
        self.state().expected.remove(id);
        self.note();
        self.stop_if_over();
    }

    /// Takes a container away whose creator has gone, whatever it does.
    pub async fn discard(&self, id: &str) {
        self.state().expected.remove(id);
        let known = self
            .until(|state| match state.containers.get(id) {
                None => Some(false),
                Some(container) if container.making() => None,
                Some(_) => Some(true),
            })
            .await;
        if known {
            if let Ok(guest) = self.guest()
                && let Err(e) = guest.remove(id).await
            {
                log::warn!("{}", e.chain());
            }
            let container = self.state().containers.remove(id);
            if let Some(container) = container {
                self.unplug(container.disks.clone()).await;
            }
        }
        self.note();
        self.stop_if_over();
    }

    /// No other container is there or expected.
    pub fn alone(&self, id: &str) -> bool {
        let state = self.state();
        state
            .containers
            .keys()
            .chain(state.expected.keys())
            .all(|other| other == id)
    }

    /// Makes a container that is expected; the first one brings the machine up. Errors: nothing of it is left then.
    pub async fn create(self: &Arc<Self>, create: Create) -> Result<()> {
        base::id::check(&create.id)?;
        let bundle = Bundle::open(&create.bundle)?;
        // Another one may be bringing the machine up.
        let origin = self
            .until(|state| match &state.phase {
                Phase::Booting => None,
                _ => Some(Sandbox::enroll(state, &create, &bundle)),
            })
            .await?;
        // To its end, also if whoever waits for it goes.
        let sandbox = Arc::clone(self);
        let made = tokio::spawn(async move { sandbox.complete(&create, &bundle, &origin).await });
        made.await.context(Kind::Bug, || "make a container".into())?
    }

    /// Makes a container that is enrolled, or forgets it.
    async fn complete(self: &Arc<Self>, create: &Create, bundle: &Bundle, origin: &Origin) -> Result<()> {
        let made = self.make(create, bundle, origin).await;
        if let Err(e) = made {
            self.state().containers.remove(&create.id);
            self.note();
            // A connection that broke is no reason: the machine's end is.
            if e.kind() == Kind::Gone
                && let Ok(Some(reason)) = tokio::time::timeout(LAG, self.down()).await
            {
                return Err(Error::new(Kind::Gone, "the machine ended").because(reason));
            }
            return Err(e);
        }
        Ok(())
    }

    fn enroll(state: &mut State, create: &Create, bundle: &Bundle) -> Result<Origin> {
        if state.containers.contains_key(&create.id) {
            let what = format!("container {} exists already", create.id);
            return Err(Error::new(Kind::Exists, what));
        }
        let Some(origin) = state.expected.remove(&create.id) else {
            let what = format!("nobody keeps a place for container {}", create.id);
            return Err(Error::new(Kind::State, what));
        };
        match &state.phase {
            Phase::Booting => return Err(Error::new(Kind::State, "the sandbox is being started")),
            Phase::Down(_) => return Err(Error::new(Kind::Gone, "the machine of the sandbox has ended")),
            Phase::Absent => state.phase = Phase::Booting,
            Phase::Up(_) => {}
        }
        let init = Process::new(Stage::Making, bundle.terminal(), create.stdio.clone());
        let mut container = Container::new(bundle.dir().to_owned(), Limits::of(bundle.resources()), init);
        container.pause = create.pause;
        state.containers.insert(create.id.clone(), container);
        Ok(origin)
    }

    async fn make(self: &Arc<Self>, create: &Create, bundle: &Bundle, origin: &Origin) -> Result<()> {
        let id = &create.id;
        let booting = matches!(self.state().phase, Phase::Booting);
        let root = self.root(create, bundle)?;
        let holder = self.holder();
        let place = async {
            let begin = Instant::now();
            let (mut placed, mut attachments) = self.share.place(id, bundle, holder.as_deref(), origin)?;
            match &root {
                _ if create.pause => {
                    placed.no_root()?;
                    attachments.push(share::empty_root(id));
                }
                Some(root) => {
                    placed.no_root()?;
                    root.own().map_or(Ok(()), |dir| placed.layer(dir, origin))?;
                }
                None => attachments.push(placed.root(bundle, &create.rootfs, origin)?),
            }
            self.state().spans.end("storage", begin);
            Ok((placed, attachments))
        };
        let mut turn = None;
        let (placed, attachments) = if booting {
            let up = async {
                turn = self.turn().await;
                self.boot(bundle).await
            };
            // The guest boots while its files are put in place.
            let (up, placed) = tokio::join!(up, place);
            up?;
            placed?
        } else {
            self.measure().await;
            place.await?
        };
        let namespaces = self.namespaces(id, bundle).await?;
        let guest = self.guest()?;
        let begin = Instant::now();
        let watched = changes::watchable(bundle, &attachments);
        let (disks, root) = self.plug(id, bundle, root).await?;
        let attachments = attachments.into_iter().chain(root.map(share::root_on));
        let request = CreateContainerRequest {
            id: id.clone(),
            spec: bundle.json().to_owned(),
            attachments: attachments.collect(),
            namespaces,
            disks,
            stdio: Some(create.stdio.clone()).into(),
            pause: create.pause,
            ..CreateContainerRequest::default()
        };
        if let Err(e) = guest.create(&request).await {
            let disks = std::mem::take(&mut self.state().container(id)?.disks);
            self.unplug(disks).await;
            return Err(e);
        }
        drop(turn);
        self.adopt(id, placed, begin);
        self.follow_changes(id, &guest, watched);
        let (sandbox, id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move { sandbox.follow(guest, id, String::new()).await });
        Ok(())
    }

    /// Waits until a machine may be brought up, if one has to be.
    async fn turn(&self) -> Option<Turn> {
        let queue = self.plan.queue.as_ref()?;
        if self.state().standby.is_some() {
            return None;
        }
        let begin = Instant::now();
        let turn = queue.turn().await.unwrap_or_else(|e| {
            log::warn!("the machine is brought up out of turn: {}", e.chain());
            None
        });
        self.state().spans.end("queue", begin);
        turn
    }

    /// The root file system that the machine gets as it is, if it does. A guest that has had it may have written anything there, which the
    /// host's kernel must not read: only CRI, which makes one for each container that it creates, may have it mounted on the host. So may
    /// be layers, which no guest writes, as the snapshotter has mounted them already; a file with a layer is not for us to mount.
    /// The root of a pod's first container, which does nothing, is the host's where that may be: places for block devices are few.
    fn root(&self, create: &Create, bundle: &Bundle) -> Result<Option<Root>> {
        let what = || format!("give the machine the root file system of {}", create.id);
        let blob = layers::is_blob(&create.rootfs);
        let Some(root) = Root::find(&create.rootfs)? else {
            if blob {
                let why = "its mounts are not one of EROFS, nor an overlay of such that the snapshotter has mounted";
                return Err(Error::new(Kind::Unsupported, what()).because(why));
            }
            return Ok(None);
        };
        let part = bundle.part()?;
        if matches!(part, Some(Part::Sandbox(_))) && !blob {
            return Ok(None);
        }
        let mut state = self.state();
        let others = state.containers.iter().filter(|(id, _)| **id != create.id);
        let taken = others.filter(|(_, other)| other.root_on_disk || !other.disks.is_empty());
        if taken.count() < DISK_CARDS {
            state.container(&create.id)?.root_on_disk = true;
            return Ok(Some(root));
        }
        if matches!(root, Root::Layers(_)) || matches!(part, Some(Part::Member(_))) && !blob {
            return Ok(None);
        }
        let why = format!("{DISK_CARDS} of its containers have block devices: there is no place for more");
        Err(Error::new(Kind::Unsupported, what()).because(why))
    }

    /// The container that holds namespaces for the others.
    fn holder(&self) -> Option<String> {
        let state = self.state();
        let mut all = state.containers.iter();
        all.find(|(_, container)| container.pause).map(|(id, _)| id.clone())
    }

    /// What the namespaces are in the guest that the spec of `id` names by paths. Errors: `Unsupported` for those of the host, `State`
    /// for those of a container that has ended.
    async fn namespaces(&self, id: &str, bundle: &Bundle) -> Result<Vec<Namespace>> {
        let mut found = Vec::new();
        for (kind, named) in namespace::named(bundle.spec())? {
            let container = self
                .until(|state| state.owner(id, &kind, &named))
                .await
                .attempt(|| format!("linux.namespaces: join the {kind} namespace"))?;
            found.push(namespace::request(&kind, container));
        }
        Ok(found)
    }

    /// The guest is told what the host changes in these volumes.
    fn follow_changes(&self, id: &str, guest: &Guest, volumes: Vec<String>) {
        if volumes.is_empty() {
            return;
        }
        let mut state = self.state();
        let device = match &state.phase {
            Phase::Up(up) => up.device.as_ref().map(|device| device.pid),
            _ => None,
        };
        let changes = Changes::follow(guest.clone(), self.share.path(), volumes, device);
        if let Some(container) = state.containers.get_mut(id) {
            container.changes = Some(changes);
        }
    }

    fn adopt(&self, id: &str, placed: Placed, begin: Instant) {
        let mut state = self.state();
        state.spans.end("container", begin);
        if let Some(container) = state.containers.get_mut(id) {
            container.placed = Some(placed);
            if let Some(init) = container.processes.get_mut("")
                && init.alive()
            {
                init.stage = Stage::Created;
            }
        }
        drop(state);
        self.note();
    }
}
