// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A pod that containerd leaves to us (`sandboxer = "shim"`): it has a container all the same, of our own making, which holds its
//! machine and its namespaces, so that further containers join it as they join that of containerd. containerd knows of it only as the
//! pod's pid and end.
//!
//! ```text
//! create ──► a bundle ── start ──► kata monitor, kata shim ──► its end ──► the pod's
//!                                      ▲ further containers, by the Task service
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::task::api::CreateTaskRequest;
use api::task::sandbox_api::CreateSandboxRequest;
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use oci::Bundle;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use sandbox::end_of;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::container::Exit;
use super::tasks::{Tasks, apart};
use super::{now, pod_spec};
use crate::runtime::{delete, verbs};

/// What the pod's containers find of it: places, and names of the files in its bundle.
const FILES: [(&str, &str); 3] = [
    ("/etc/hostname", "hostname"),
    ("/etc/hosts", "hosts"),
    ("/etc/resolv.conf", "resolv.conf"),
];
/// In its bundle, too: stands for its memory by name.
const SHM: &str = "shm";

/// See the module.
#[derive(Debug)]
pub struct Pod {
    pub id: String,
    bundle: PathBuf,
    pub created_at: MessageField<Timestamp>,
    /// Of the shim that stands for it; 0 before it is started.
    pub pid: u32,
    /// Held while it is made, and while it is removed.
    order: Arc<Mutex<()>>,
    exit: watch::Sender<Option<Exit>>,
}

/// Whether a bundle is of a pod that was left to us.
pub fn is_ours(bundle: &Path) -> bool {
    bundle.join(SHM).is_dir() && FILES.iter().all(|(_, name)| bundle.join(name).exists())
}

impl Pod {
    pub fn ended(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// It was started, and has not ended.
    pub fn alive(&self) -> bool {
        self.pid != 0 && self.exit.borrow().is_none()
    }
}

impl Tasks {
    /// The pod, if it is `id`.
    fn with_pod<T>(&self, id: &str, look: impl FnOnce(&mut Pod) -> T) -> Result<T> {
        let mut pod = self.pod();
        let found = pod.as_mut().filter(|pod| pod.id == id);
        found
            .map(look)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("sandbox {id} does not exist")))
    }

    /// Looks at it.
    pub fn look_at_pod<T>(&self, id: &str, look: impl FnOnce(&Pod) -> T) -> Result<T> {
        self.with_pod(id, |pod| look(pod))
    }

    /// Writes down what it is to be.
    pub fn define_pod(&self, request: &CreateSandboxRequest) -> Result<()> {
        let id = &request.sandbox_id;
        base::id::check(id)?;
        let mut pod = self.pod();
        if pod.is_some() || self.containers().contains(id) {
            return Err(Error::new(Kind::Exists, format!("sandbox {id} exists already")));
        }
        let config = pod_spec::config(request.options.as_ref())?;
        let bundle = PathBuf::from(&request.bundle_path);
        for name in ["rootfs", SHM] {
            make_dir(&bundle.join(name))?;
        }
        let annotations: Vec<_> = request.annotations.clone().into_iter().collect();
        let shm = bundle.join(SHM);
        let spec = pod_spec::document(id, &config, &annotations, &request.netns_path, &shm);
        write(&bundle.join("config.json"), spec.to_string().as_bytes())?;
        // As containerd has it: the host's, where the pod says nothing.
        let hostname = match config.hostname.as_str() {
            "" => read("/proc/sys/kernel/hostname")?,
            name => format!("{name}\n").into_bytes(),
        };
        let resolver = match pod_spec::resolver(&config) {
            None => read("/etc/resolv.conf")?,
            Some(text) => text.into_bytes(),
        };
        for ((_, name), text) in FILES.iter().zip([hostname, read("/etc/hosts")?, resolver]) {
            write(&bundle.join(name), &text)?;
        }
        *pod = Some(Pod {
            id: id.clone(),
            bundle,
            created_at: now(),
            pid: 0,
            order: Arc::default(),
            exit: watch::Sender::new(None),
        });
        Ok(())
    }

    /// Makes its machine. The answer is its pid, and since when it is there.
    pub async fn start_pod(self: &Arc<Self>, id: &str) -> Result<(u32, MessageField<Timestamp>)> {
        let order = self.look_at_pod(id, |pod| Arc::clone(&pod.order))?;
        let _order = order.lock().await;
        let (bundle, started) = self.look_at_pod(id, |pod| (pod.bundle.clone(), pod.pid != 0))?;
        if started {
            return Err(Error::new(Kind::State, format!("sandbox {id} was started before")));
        }
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            ..CreateTaskRequest::default()
        };
        let tasks = Arc::clone(self);
        let begun = apart(move || {
            let (begun, owner) = tasks.make(&request, true)?;
            let started = verbs::start(tasks.globals(), &request.id);
            if started.is_err()
                && let Err(e) = delete::delete(tasks.globals(), &request.id, true)
            {
                log::warn!("{}", e.chain());
            }
            started.map(|()| (begun.shim, owner))
        });
        let (shim, owner) = begun.await.attempt(|| format!("start sandbox {id}"))?;
        self.reap_monitor(owner);
        let pid = shim.pid().cast_unsigned();
        let since = self.with_pod(id, |pod| {
            pod.pid = pid;
            pod.created_at = now();
            pod.created_at.clone()
        })?;
        tokio::spawn(Arc::clone(self).follow_pod(id.to_owned(), shim));
        Ok((pid, since))
    }

    async fn follow_pod(self: Arc<Self>, id: String, shim: Pidfd) {
        end_of(&shim).await;
        let status = match shim.reap() {
            Ok(code) => u32::from(code),
            Err(e) => {
                log::error!("{}", e.chain());
                super::LOST
            }
        };
        let exit = Exit { status, at: now() };
        if let Err(e) = self.with_pod(&id, |pod| pod.exit.send_replace(Some(exit))) {
            log::debug!("{}", e.chain());
        }
    }

    /// Waits for its end.
    pub async fn wait_for_pod(&self, id: &str) -> Result<Exit> {
        let mut exit = self.look_at_pod(id, |pod| pod.exit.subscribe())?;
        let ended = exit.wait_for(Option::is_some).await.ok();
        let ended = ended.and_then(|exit| exit.clone());
        ended.ok_or_else(|| Error::new(Kind::NotFound, format!("sandbox {id} was removed")))
    }

    /// Ends it with all that runs in it.
    pub async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        if !self.look_at_pod(id, Pod::alive)? {
            return Ok(());
        }
        let (tasks, name) = (Arc::clone(self), id.to_owned());
        let others = self.containers().ids();
        let killed = apart(move || {
            for one in others.iter().chain([&name]) {
                match verbs::kill(tasks.globals(), one, "KILL", true) {
                    // It has ended.
                    Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone | Kind::State) => {
                        log::debug!("{}", e.chain());
                    }
                    other => other?,
                }
            }
            Ok(())
        });
        killed.await?;
        self.wait_for_pod(id).await.map(drop)
    }

    /// Removes it and whatever container is left.
    pub async fn remove_pod(self: &Arc<Self>) {
        self.close().await;
        let Some((id, order)) = self.pod().as_ref().map(|pod| (pod.id.clone(), Arc::clone(&pod.order))) else {
            return;
        };
        let _order = order.lock().await;
        let tasks = Arc::clone(self);
        let name = id.clone();
        if let Err(e) = apart(move || delete::delete(tasks.globals(), &name, true)).await {
            log::error!("delete sandbox {id}: {}", e.chain());
        }
        if self.look_at_pod(&id, Pod::alive).unwrap_or(false) {
            let _ = tokio::time::timeout(super::tasks::LAST_OUTPUT, self.wait_for_pod(&id)).await;
        }
        *self.pod() = None;
    }

    /// Opens the bundle of a container. For one of the pod it is completed first: what containerd binds into the containers of its own pods
    /// is the shim's to give in ours.
    pub fn open_bundle(&self, dir: &Path) -> Result<Bundle> {
        let bundle = Bundle::open(dir)?;
        let pod = self.pod().as_ref().map(|pod| (pod.id.clone(), pod.bundle.clone()));
        let Some((id, files)) = pod.filter(|(_, files)| files != dir) else {
            return Ok(bundle);
        };
        let Some(json) = completed(bundle.json(), &id, &files)? else {
            return Ok(bundle);
        };
        write(&dir.join("config.json"), &json)?;
        Bundle::open(dir)
    }
}

/// `config.json` with the files of the pod `id`, which are in `dir`; none where it has them already.
fn completed(json: &[u8], id: &str, dir: &Path) -> Result<Option<Vec<u8>>> {
    let what = || "complete config.json".to_owned();
    let mut spec: Value = serde_json::from_slice(json).context(Kind::Bug, what)?;
    let access = if spec["root"]["readonly"] == true { "ro" } else { "rw" };
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return Ok(None);
    };
    let before = mounts.clone();
    for (place, name) in FILES {
        let own = json!({
            "destination": place, "type": "bind", "source": dir.join(name), "options": ["rbind", "rprivate", access]
        });
        match mounts.iter_mut().find(|mount| mount["destination"] == place) {
            // A place where pods of containerd's own have it.
            Some(mount) if source(mount).ends_with(Path::new(id).join(name)) => *mount = own,
            Some(_) => {}
            None => mounts.push(own),
        }
    }
    // One for each container, where all of them are to have the same.
    if let Some(mount) = mounts.iter_mut().find(|mount| mount["destination"] == "/dev/shm")
        && (mount["type"] == "tmpfs" || source(mount).ends_with(Path::new(id).join(SHM)))
    {
        *mount = json!({ "destination": "/dev/shm", "type": "bind", "source": dir.join(SHM), "options": ["rbind"] });
    }
    if *mounts == before {
        return Ok(None);
    }
    serde_json::to_vec(&spec).context(Kind::Bug, what).map(Some)
}

fn source(mount: &Value) -> &Path {
    Path::new(mount["source"].as_str().unwrap_or_default())
}

fn read(path: &str) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.attempt(|| format!("read {path}")),
    }
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    base::file::replace(path, text)
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.attempt(|| format!("create directory {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(given: &Value) -> Option<Value> {
        let spec = json!({ "ociVersion": "1.0.2", "root": { "path": "rootfs", "readonly": true }, "mounts": given });
        let done = completed(spec.to_string().as_bytes(), "p1", Path::new("/b/p1")).unwrap();
        done.map(|json| serde_json::from_slice::<Value>(&json).unwrap()["mounts"].clone())
    }

    fn bind(place: &str, source: &str, options: &[&str]) -> Value {
        json!({ "destination": place, "type": "bind", "source": source, "options": options })
    }

    #[test]
    fn a_container_of_the_pod_gets_its_files_and_its_memory() {
        let shm = json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm" });
        let got = mounts(&json!([shm])).unwrap();
        let options = &["rbind", "rprivate", "ro"];
        let want = json!([
            bind("/dev/shm", "/b/p1/shm", &["rbind"]),
            bind("/etc/hostname", "/b/p1/hostname", options),
            bind("/etc/hosts", "/b/p1/hosts", options),
            bind("/etc/resolv.conf", "/b/p1/resolv.conf", options),
        ]);
        assert_eq!(got, want);
        assert_eq!(mounts(&got), None, "once is enough");
    }

    #[test]
    fn what_the_user_binds_stays_and_the_places_of_containerds_own_pods_are_replaced() {
        let own = bind("/etc/hosts", "/var/lib/kubelet/pods/x/etc-hosts", &["rbind"]);
        let shm = bind("/dev/shm", "/volumes/shm", &["rbind"]);
        let theirs = bind("/etc/resolv.conf", "/run/sandboxes/p1/resolv.conf", &["rbind"]);
        let got = mounts(&json!([own, shm, theirs])).unwrap();
        assert_eq!((&got[0], &got[1]), (&own, &shm));
        assert_eq!(got[2]["source"], "/b/p1/resolv.conf");
        assert_eq!(got[3]["destination"], "/etc/hostname");
    }
}
