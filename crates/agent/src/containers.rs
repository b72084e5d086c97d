// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All containers of the guest, and what they share: the reaper, the events, the host's file systems.

use std::path::Path;
use std::sync::Arc;

use api::agent::{CreateContainerRequest, attachment};
use base::{Context, Error, Kind, Result};
use guest::{Attachment, Disk, FileSystem, Join, LinuxNamespaceType, Nests};

use crate::container::Container;
use crate::disk::Disks;
use crate::events::Events;
use crate::holdings::Holdings;
use crate::layers;
use crate::memory::Memories;
use crate::modules;
use crate::mounts::CGROUPS;
use crate::reaper::Reaper;
use crate::registry::Registry;
use crate::share::Shares;

/// File systems of block devices are mounted below.
const FILE_SYSTEMS: &str = "/run/kata/disk";

/// See above.
#[derive(Debug)]
pub struct Containers {
    all: Registry<Container>,
    shares: Arc<Shares>,
    memories: Memories,
    nests: Nests,
    reaper: Arc<Reaper>,
    events: Arc<Events>,
}

impl Containers {
    /// None yet.
    pub fn new(reaper: Arc<Reaper>, events: Arc<Events>) -> Containers {
        Containers {
            all: Registry::new("container"),
            shares: Arc::default(),
            memories: Memories::default(),
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
        let (held, disks) = Disks::find(&request.disks)?;
        let (attachments, held) = self.attachments(request, &disks, held)?;
        let namespaces = self.namespaces(request)?;
        let container = Container::create(
            request,
            attachments,
            namespaces,
            (held, disks),
            &self.nests,
            &self.reaper,
            &self.events,
        )?;
        let pid = container.pid();
        reserved.fill(Arc::new(container));
        Ok(pid)
    }

    fn attachments(
        &self,
        request: &CreateContainerRequest,
        disks: &[Disk],
        held: Disks,
    ) -> Result<(Vec<Attachment>, Holdings)> {
        let mut found = Vec::new();
        let mut held = Holdings::of(held);
        for attachment in &request.attachments {
            let what = || format!("attach {}", place(attachment.mount));
            let path = match &attachment.source {
                Some(attachment::Source::Share(share)) => self.shares.find(&share.tag, &share.path).attempt(what)?,
                Some(attachment::Source::Memory(wanted)) => {
                    let memory = self.memories.find(&wanted.name, wanted.bytes).attempt(what)?;
                    let path = memory.path().to_owned();
                    held.memories.push(memory);
                    path
                }
                Some(attachment::Source::FileSystem(wanted)) => {
                    let device = device(request, disks, &wanted.serial).attempt(what)?;
                    modules::load_later(&[&wanted.type_]).attempt(what)?;
                    let path = Path::new(FILE_SYSTEMS).join(&wanted.serial);
                    let mounted = FileSystem::mount(&wanted.type_, device, &wanted.options, &path);
                    held.file_systems.push(mounted.attempt(what)?);
                    path
                }
                Some(attachment::Source::Layers(wanted)) => {
                    let device = device(request, disks, &wanted.serial).attempt(what)?;
                    let path = Path::new(FILE_SYSTEMS).join(&wanted.serial);
                    let mounted = layers::mount(wanted, device, &path, &self.shares).attempt(what)?;
                    let root = mounted.last().map(|root| root.path().to_owned());
                    // The overlay goes first.
                    held.file_systems.extend(mounted.into_iter().rev());
                    root.ok_or_else(|| Error::new(Kind::Invalid, what()).because("it has no layers"))?
                }
                _ => return Err(Error::new(Kind::Invalid, what()).because("it has no source")),
            };
            found.push(Attachment {
                mount: attachment.mount,
                path,
            });
        }
        Ok((found, held))
    }

    fn namespaces(&self, request: &CreateContainerRequest) -> Result<Vec<Join>> {
        let found = request.namespaces.iter().map(|namespace| {
            let what = || {
                format!(
                    "join the {} namespace of container {}",
                    namespace.type_, namespace.container
                )
            };
            let kind = LinuxNamespaceType::try_from(namespace.type_.as_str())
                .context(Kind::Invalid, || format!("namespace type {:?}", namespace.type_))?;
            let of = match namespace.container.as_str() {
                "" => None,
                id => Some(self.all.get(id).and_then(|other| other.namespace(kind)).attempt(what)?),
            };
            Ok(Join { kind, of })
        });
        found.collect()
    }

    /// Where their files come from.
    pub fn shares(&self) -> &Arc<Shares> {
        &self.shares
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

    /// Ends everything, in a guest that is about to end. What cannot be killed stays.
    pub fn clear(&self) {
        let all = self.all.all();
        for (_, container) in &all {
            if let Err(e) = container.inner().signal_all(libc::SIGKILL) {
                log::warn!("{}", e.chain());
            }
        }
        for (_, container) in &all {
            if let Err(e) = container.end() {
                log::warn!("{}", e.chain());
            }
        }
    }
}

/// Where the disk `serial` of the request is.
fn device<'a>(request: &CreateContainerRequest, disks: &'a [Disk], serial: &str) -> Result<&'a Path> {
    let serials = request.disks.iter().map(|disk| &disk.serial);
    let found = serials.zip(disks).find(|(other, _)| *other == serial);
    found
        .map(|(_, disk)| disk.path.as_path())
        .ok_or_else(|| Error::new(Kind::Invalid, format!("no disk is {serial}")))
}

fn place(mount: i32) -> String {
    match mount {
        -1 => "the rootfs".to_owned(),
        mount => format!("mounts[{mount}]"),
    }
}
