// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the host changes in a container's volumes, told to the guest where a process of the guest watches it. The agent says what is
//! watched; only that is watched here (fanotify), and nothing as long as nobody does. What the sandbox's own device process has
//! changed is the guest's doing: its kernel knows that already.

mod group;
mod record;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::agent::attachment::Source;
use api::agent::{Attachment, Change, NextWatchesRequest, RaiseEventsRequest, change};
use api::notice::WATCHES;
use base::{Context, Error, Kind, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use oci::Bundle;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::guest::Guest;
use crate::share::TAG;
use crate::sys;
use group::Group;
use record::Record;

/// Changes often come in handfuls; one telling does for all.
const SETTLE: Duration = Duration::from_millis(20);
/// Changes that are told at once.
const HANDFUL: usize = 256;
/// What engines write for every container: nobody watches it.
const OF_ENGINES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// Volumes, by their paths in the share, in which a process may have reason to watch something.
pub fn watchable(bundle: &Bundle, attachments: &[Attachment]) -> Vec<String> {
    let own = |target: &Path| OF_ENGINES.iter().any(|file| target == Path::new(file));
    let mounts = bundle.spec().mounts().as_deref().unwrap_or_default();
    let volumes = attachments.iter().filter_map(|attachment| {
        let mount = mounts.get(usize::try_from(attachment.mount).ok()?)?;
        match &attachment.source {
            Some(Source::Share(share)) if !own(mount.destination()) => Some(share.path.clone()),
            _ => None,
        }
    });
    volumes.collect()
}

/// The task of one container. Dropping it ends it.
#[derive(Debug)]
pub struct Changes(JoinHandle<()>);

impl Changes {
    /// Follows `volumes`, paths in the share at `share`, until the guest has gone. `device`: the device process.
    pub fn follow(guest: Guest, share: &Path, volumes: Vec<String>, device: Option<i32>) -> Changes {
        let share = share.to_owned();
        Changes(tokio::spawn(async move {
            if let Err(e) = follow(&guest, share, volumes, device).await {
                let gone = matches!(e.kind(), Kind::Gone | Kind::NotFound);
                let level = if gone { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "changes of the host raise no events in the guest: {}", e.chain());
            }
        }))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow(guest: &Guest, share: PathBuf, volumes: Vec<String>, device: Option<i32>) -> Result<()> {
    let mut watched = Watched {
        root: File::open(&share)
            .attempt(|| format!("open {}", share.display()))?
            .into(),
        group: None,
        files: HashMap::new(),
        device,
    };
    let mut request = NextWatchesRequest {
        tag: TAG.to_owned(),
        volumes,
        ..NextWatchesRequest::default()
    };
    loop {
        let found = {
            // One question goes on while changes come: the agent looks until it can answer.
            let asked = guest.watches(&request);
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    found = &mut asked => break bounded(found?),
                    changes = watched.next() => guest.raise(&changes?).await?,
                }
            }
        };
        if found != request.seen {
            watched.set(&found)?;
        }
        request.seen = found;
    }
}

/// The guest says what is watched, and a guest may say anything.
fn bounded(mut paths: Vec<String>) -> Vec<String> {
    if paths.len() > WATCHES {
        log::warn!("the guest wants {} places watched: only {WATCHES} are", paths.len());
        paths.truncate(WATCHES);
    }
    paths
}

/// What is watched now.
struct Watched {
    root: OwnedFd,
    /// None as long as nothing is watched.
    group: Option<AsyncFd<OwnedFd>>,
    /// By their identity: the path in the share.
    files: HashMap<Vec<u8>, String>,
    device: Option<i32>,
}

impl Watched {
    /// From now on these. A file that cannot be watched is told of and left out.
    fn set(&mut self, paths: &[String]) -> Result<()> {
        self.files.clear();
        self.group = None;
        if paths.is_empty() {
            return Ok(());
        }
        let group = Group::make().attempt(|| "make a fanotify group".into())?;
        for path in paths {
            match self.mark(&group, path) {
                Ok(identity) => {
                    self.files.insert(identity, path.clone());
                }
                Err(e) if e.kind() == Kind::NotFound => log::debug!("{}", e.chain()),
                Err(e) => log::warn!("{}", e.chain()),
            }
        }
        let group = sys::watch(group.into()).attempt(|| "watch a fanotify group".into())?;
        self.group = Some(group);
        Ok(())
    }

    /// The guest names a place in the share: nothing outside of it, and no link, is followed.
    fn mark(&self, group: &Group, path: &str) -> Result<Vec<u8>> {
        let what = || format!("watch {path} for the guest");
        let inside =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = |flags| OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(inside);
        let place = openat2(&self.root, path, how(OFlag::O_PATH)).attempt(what)?;
        let kind = File::from(place).metadata().attempt(what)?;
        if !kind.is_dir() && !kind.is_file() {
            return Err(Error::new(Kind::Unsupported, what()).because("it is neither a directory nor a file"));
        }
        let file = openat2(&self.root, path, how(OFlag::O_RDONLY | OFlag::O_NONBLOCK)).attempt(what)?;
        group.mark(&file, kind.is_dir()).attempt(what)?;
        group::identity(&file).attempt(what)
    }

    /// The next handful of changes.
    async fn next(&mut self) -> Result<RaiseEventsRequest> {
        let Some(group) = &self.group else {
            return std::future::pending().await;
        };
        let mut found = BTreeMap::new();
        while found.is_empty() {
            let mut ready = group.readable().await.attempt(|| "watch changes".into())?;
            tokio::time::sleep(SETTLE).await;
            let bytes = group::read(group.get_ref()).attempt(|| "read changes".into())?;
            if bytes.is_empty() {
                ready.clear_ready();
            }
            for record in record::all(&bytes) {
                self.sort(&record, &mut found);
            }
        }
        let changes = found.into_iter().take(HANDFUL).map(|((path, name), kind)| Change {
            path,
            name,
            kind: kind.into(),
            ..Change::default()
        });
        Ok(RaiseEventsRequest {
            tag: TAG.to_owned(),
            changes: changes.collect(),
            ..RaiseEventsRequest::default()
        })
    }

    /// What a record means to the guest: the last word on a name counts.
    fn sort(&self, record: &Record<'_>, found: &mut BTreeMap<(String, Vec<u8>), change::Kind>) {
        if record.overflow() {
            // Nobody knows what it was: who watches a directory looks into it.
            let all = self
                .files
                .values()
                .map(|path| ((path.clone(), Vec::new()), change::Kind::ATTRIBUTES));
            found.extend(all);
            return;
        }
        if self.device == Some(record.pid) {
            return;
        }
        let Some(kind) = record.kind() else { return };
        for (identity, name) in record.places() {
            if let Some(path) = self.files.get(identity) {
                found.insert((path.clone(), name.to_owned()), kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_guest_that_wants_everything_watched_gets_a_bound() {
        let wanted: Vec<String> = (0..=WATCHES).map(|n| n.to_string()).collect();
        assert_eq!(bounded(wanted.clone()), wanted[..WATCHES]);
        assert_eq!(bounded(wanted[..WATCHES].to_vec()).len(), WATCHES);
    }

    fn watched(root: &Path, device: Option<i32>) -> Watched {
        Watched {
            root: File::open(root).unwrap().into(),
            group: None,
            files: HashMap::new(),
            device,
        }
    }

    async fn told(watched: &mut Watched) -> Vec<(String, String, change::Kind)> {
        let next = tokio::time::timeout(Duration::from_millis(500), watched.next());
        let Ok(request) = next.await else { return Vec::new() };
        let changes = request.unwrap().changes.into_iter().map(|change| {
            let name = String::from_utf8(change.name).unwrap();
            (change.path, name, change.kind.enum_value_or_default())
        });
        changes.collect()
    }

    fn run(case: impl Future<Output = ()>) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: fanotify needs root");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(case);
    }

    #[test]
    fn changes_of_others_are_told_and_our_own_are_not() {
        run(async {
            let top = tempfile::tempdir().unwrap();
            let dir = top.path().join("c/m1");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("f"), "one").unwrap();
            fs::write(top.path().join("c/m2"), "file").unwrap();
            let mut watched_by_guest = watched(top.path(), None);
            watched_by_guest
                .set(&["c/m1".into(), "c/m2".into(), "c/gone".into()])
                .unwrap();
            fs::write(dir.join("f"), "two").unwrap();
            fs::write(dir.join("new"), "").unwrap();
            fs::write(top.path().join("c/m2"), "other").unwrap();
            let want = |path: &str, name: &str, kind| (path.to_owned(), name.to_owned(), kind);
            let content = change::Kind::CONTENT;
            let found = told(&mut watched_by_guest).await;
            for wanted in [
                want("c/m1", "f", content),
                want("c/m1", "new", content),
                want("c/m2", "", content),
            ] {
                assert!(found.contains(&wanted), "{wanted:?} of {found:?}");
            }
            fs::rename(dir.join("new"), dir.join("f")).unwrap();
            let found = told(&mut watched_by_guest).await;
            assert!(found.contains(&want("c/m1", "f", content)), "{found:?}");
            assert!(found.contains(&want("c/m1", "new", change::Kind::GONE)), "{found:?}");
            fs::remove_file(dir.join("f")).unwrap();
            let found = told(&mut watched_by_guest).await;
            assert_eq!(found, [want("c/m1", "f", change::Kind::GONE)]);
            watched_by_guest.set(&[]).unwrap();
            fs::write(dir.join("f"), "").unwrap();
            assert_eq!(told(&mut watched_by_guest).await, []);
            let own = i32::try_from(std::process::id()).unwrap();
            let mut watched_by_guest = watched(top.path(), Some(own));
            watched_by_guest.set(&["c/m1".into()]).unwrap();
            fs::write(dir.join("f"), "ours").unwrap();
            assert_eq!(told(&mut watched_by_guest).await, []);
        });
    }

    #[test]
    fn a_guest_watches_nothing_outside_of_its_share() {
        run(async {
            let top = tempfile::tempdir().unwrap();
            let share = top.path().join("share");
            fs::create_dir(&share).unwrap();
            std::os::unix::fs::symlink("..", share.join("link")).unwrap();
            let watched = watched(&share, None);
            let group = Group::make().unwrap();
            for path in ["..", "link", "link/share", "/etc", "a/../.."] {
                assert!(watched.mark(&group, path).is_err(), "{path}");
            }
        });
    }

    #[test]
    fn files_of_engines_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        let mounts =
            ["/etc/hosts", "/proc", "/etc/nginx/nginx.conf"].map(|target| serde_json::json!({"destination": target}));
        let spec = serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts,
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"}
        });
        let bundle = Bundle::parse(dir.path().to_owned(), spec.to_string().into_bytes()).unwrap();
        let share = |mount: i32| Attachment {
            mount,
            source: Some(Source::Share(api::agent::Share {
                path: format!("c/m{mount}"),
                ..api::agent::Share::default()
            })),
            ..Attachment::default()
        };
        let attachments = [share(-1), share(0), share(2)];
        assert_eq!(watchable(&bundle, &attachments), ["c/m2"]);
    }
}
