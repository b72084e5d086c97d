// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Takes a machine that waits, in place of starting a monitor. Whatever fails here is no error: a monitor is started then.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use oci::Bundle;

use super::pool::{self, DOOR, Pool};
use super::request::{Request, Words, handle};
use crate::monitor::plan;
use crate::runtime::Globals;
use crate::shim::parse_refusal;

/// How long a machine may take to become ours.
const PATIENCE: Duration = Duration::from_secs(10);

/// A monitor with a machine that is up.
#[derive(Debug)]
pub struct Taken {
    pub lease: UnixStream,
    pub monitor: Pidfd,
}

/// One for the sandbox `id` that `bundle` begins. `None` when there is none that fits.
pub fn take(globals: &Globals, id: &str, bundle: &Bundle) -> Option<Taken> {
    let pool = Pool::of(&globals.settings.config);
    if !pool.exists() {
        return None;
    }
    match try_all(&pool, globals, id, bundle) {
        Ok(taken) => taken,
        Err(e) => {
            log::warn!("no use of a machine that waits, starting another: {}", e.chain());
            None
        }
    }
}

fn try_all(pool: &Pool, globals: &Globals, id: &str, bundle: &Bundle) -> Result<Option<Taken>> {
    let names = pool.names()?;
    // What is wrong with the id or the network is told by the monitor that is started.
    if names.is_empty() || globals.root.join(id).exists() || net::Place::of(bundle.spec()).is_err() {
        return Ok(None);
    }
    let Some(key) = plan::key_of(&globals.settings, bundle)? else {
        return Ok(None);
    };
    for name in names.iter().filter(|name| pool::fits(name, &key)) {
        if let Some(taken) = try_one(pool, name, globals, id, bundle)? {
            return Ok(Some(taken));
        }
    }
    Ok(None)
}

/// `None` when the machine is not ready, dead or somebody else's.
fn try_one(pool: &Pool, name: &str, globals: &Globals, id: &str, bundle: &Bundle) -> Result<Option<Taken>> {
    let Ok(door) = base::socket::connect(&pool.dir().join(name).join(DOOR)) else {
        return Ok(None);
    };
    let what = || format!("take {name}");
    let monitor = getsockopt(&door, PeerCredentials).attempt(what)?.pid();
    let monitor = Pidfd::open(monitor)?;
    let (lease, theirs) = UnixStream::pair().attempt(what)?;
    let read = |path: &str| std::fs::read_to_string(path).attempt(|| format!("read {path}"));
    let request = Request {
        words: Words {
            root: globals.root.clone(),
            id: id.to_owned(),
            bundle: bundle.dir().to_owned(),
            systemd_cgroup: globals.systemd_cgroup,
            log_file: globals.log.file.clone(),
            log_json: globals.log.json,
            log_debug: globals.log.debug,
            groups: read("/proc/self/cgroup")?,
            oom_score: read("/proc/self/oom_score_adj")?,
            user_network: globals.user_network.clone(),
            selection: globals.settings.selection.clone(),
        },
        lease: theirs.into(),
        mounts: handle("/proc/self/ns/mnt")?,
        root: handle("/")?,
        network: handle("/proc/self/ns/net")?,
    };
    match request.send(&door) {
        // Somebody else was faster.
        Err(e) if e.kind() == Kind::Gone => return Ok(None),
        other => other?,
    }
    drop(request);
    lease.set_read_timeout(Some(PATIENCE)).attempt(what)?;
    let mut line = String::new();
    let read = BufReader::new(&lease).read_line(&mut line);
    lease.set_read_timeout(None).attempt(what)?;
    match (read, line.trim_end()) {
        (Ok(_), "ready") => Ok(Some(Taken { lease, monitor })),
        (Ok(0), _) => Ok(None),
        (read, line) => {
            let refused = line.strip_prefix("error ").and_then(parse_refusal);
            // It has undone everything when it ends.
            drop(lease);
            if !monitor.wait(Some(PATIENCE))? {
                monitor.kill()?;
            }
            let why = refused
                .map(|why| why.chain())
                .or_else(|| read.err().map(|e| e.to_string()));
            Err(Error::new(Kind::Gone, what()).because(why.unwrap_or_else(|| format!("it says {line:?}"))))
        }
    }
}
