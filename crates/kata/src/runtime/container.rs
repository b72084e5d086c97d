// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! One container of a root directory, found by its id: what is written about it, and its monitor if that lives.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use api::task::api::{StateRequest, StateResponse, Status as TaskStatus};
use base::{Context, Error, Kind, Result};
use oci::{Bundle, State, Status};

use crate::berth;
use crate::link::{Link, TASK};

/// What `create` wrote: the state at that time.
pub const RECORD: &str = "container.json";

/// See the module.
#[derive(Debug)]
pub struct Container {
    id: String,
    dir: PathBuf,
    record: State,
}

impl Container {
    /// Errors: `NotFound` "container does not exist".
    pub fn find(root: &Path, id: &str) -> Result<Container> {
        base::id::check(id)?;
        let dir = root.join(id);
        let file = dir.join(RECORD);
        let json = match std::fs::read(&file) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::new(Kind::NotFound, "container does not exist"));
            }
            other => other.attempt(|| format!("read {}", file.display()))?,
        };
        let record = serde_json::from_slice(&json).context(Kind::Bug, || format!("parse {}", file.display()))?;
        Ok(Container {
            id: id.to_owned(),
            dir,
            record,
        })
    }

    /// Writes down a container that was made in `dir`; from then on it is found.
    pub fn record(dir: &Path, state: &State) -> Result<()> {
        let json = serde_json::to_vec(state).context(Kind::Bug, || "write the state".into())?;
        base::file::replace(&dir.join(RECORD), &json)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// That of its sandbox.
    pub fn sandbox(&self) -> PathBuf {
        berth::sandbox(&self.dir)
    }

    /// Host process that stands for its own, or stood.
    pub fn carrier(&self) -> u32 {
        self.record.pid
    }

    /// Its bundle, as it is now.
    pub fn bundle(&self) -> Result<Bundle> {
        Bundle::open(&self.record.bundle)
    }

    /// Its monitor. Errors: when that has ended.
    pub fn link(&self) -> Result<Link> {
        Link::open(&self.sandbox()).context(Kind::Gone, || format!("the monitor of container {} has ended", self.id))
    }

    /// Where it stands; stopped when its monitor has ended, for nothing of it can live then.
    pub fn status(&self) -> Result<Status> {
        let Some(response) = self.ask()? else {
            return Ok(Status::Stopped);
        };
        Ok(match response.status.enum_value_or_default() {
            TaskStatus::CREATED => Status::Created,
            TaskStatus::RUNNING => Status::Running,
            TaskStatus::PAUSED | TaskStatus::PAUSING => Status::Paused,
            TaskStatus::STOPPED => Status::Stopped,
            TaskStatus::UNKNOWN => Status::Creating,
        })
    }

    /// How its process ended; none when it has not, or when the monitor, which knows, has gone.
    pub fn exit_code(&self) -> Result<Option<u8>> {
        let stopped = self
            .ask()?
            .filter(|response| response.status.enum_value_or_default() == TaskStatus::STOPPED);
        Ok(stopped.map(|response| u8::try_from(response.exit_status).unwrap_or(u8::MAX)))
    }

    /// What the monitor says of its process; none when that has ended.
    fn ask(&self) -> Result<Option<StateResponse>> {
        let Ok(mut link) = self.link() else {
            return Ok(None);
        };
        let request = StateRequest {
            id: self.id.clone(),
            ..StateRequest::default()
        };
        match link.call::<StateResponse>(TASK, "State", &request) {
            // It has ended, or has deleted the container and somebody still waits for its end.
            Err(e) if matches!(e.kind(), Kind::Gone | Kind::NotFound) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The document for `state`.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        let mut state = self.record.clone();
        state.status = status;
        if status == Status::Stopped {
            state.pid = 0;
        }
        Ok(state)
    }
}

#[cfg(test)]
pub mod stub {
    //! A container directory with a monitor that answers as it is told, for tests.

    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;

    use protobuf::EnumOrUnknown;

    use super::*;
    use crate::link::stub;

    /// Lives until `stop`.
    pub struct Monitor {
        pub asked: Arc<Mutex<Vec<String>>>,
        thread: JoinHandle<()>,
        dir: PathBuf,
    }

    /// The record of a container in `root`.
    pub fn record(root: &Path, id: &str) -> State {
        let state = State {
            oci_version: "1.0.2".into(),
            id: id.into(),
            pid: 4711,
            status: Status::Created,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-24T10:00:00.5Z".into(),
            annotations: std::collections::BTreeMap::new(),
            owner: String::new(),
        };
        berth::Home::make(root, id).unwrap().1.keep();
        Container::record(&root.join(id), &state).unwrap();
        state
    }

    /// Starts one that says `status` and yes to everything.
    pub fn monitor(root: &Path, id: &str, status: TaskStatus) -> Monitor {
        let dir = berth::sandbox(&root.join(id));
        let listener = base::socket::listen(&dir.join("monitor.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let thread = std::thread::spawn(move || serve(&listener, status, &log));
        Monitor { asked, thread, dir }
    }

    fn serve(listener: &UnixListener, status: TaskStatus, log: &Mutex<Vec<String>>) {
        loop {
            let (mut socket, _) = listener.accept().unwrap();
            while let Some((stream, _, method, _)) = stub::request(&mut socket) {
                if method == "Stop" {
                    return;
                }
                let mut answer = StateResponse::new();
                answer.status = EnumOrUnknown::new(status);
                if method == "State" {
                    stub::respond(&mut socket, stream, Ok(&answer));
                } else {
                    stub::respond(&mut socket, stream, Ok(&api::task::api::Empty::new()));
                }
                log.lock().unwrap().push(method);
            }
        }
    }

    impl Monitor {
        /// Ends it as a crash would: the socket stays, nobody listens.
        pub fn stop(self) -> Vec<String> {
            let mut link = Link::open(&self.dir).unwrap();
            link.send(TASK, "Stop", &StateRequest::new()).unwrap();
            self.thread.join().unwrap();
            self.asked.lock().unwrap().clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_monitors_and_stopped_without_one() {
        let root = tempfile::tempdir().unwrap();
        let record = stub::record(root.path(), "c1");
        let container = Container::find(root.path(), "c1").unwrap();
        for (told, want) in [
            (TaskStatus::CREATED, Status::Created),
            (TaskStatus::RUNNING, Status::Running),
            (TaskStatus::PAUSED, Status::Paused),
        ] {
            let monitor = stub::monitor(root.path(), "c1", told);
            let state = container.state().unwrap();
            assert_eq!((state.status, state.pid), (want, record.pid));
            assert_eq!(monitor.stop(), ["State"]);
            std::fs::remove_file(root.path().join("c1/sandbox/monitor.sock")).unwrap();
        }
        stub::monitor(root.path(), "c1", TaskStatus::RUNNING).stop();
        let state = container.state().unwrap();
        assert_eq!((state.status, state.pid), (Status::Stopped, 0), "nobody listens");
        assert_eq!(container.link().unwrap_err().kind(), Kind::Gone);
    }

    #[test]
    fn what_is_not_there_is_told_as_engines_expect() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("half")).unwrap();
        for id in ["none", "half"] {
            let error = Container::find(root.path(), id).unwrap_err();
            assert_eq!(
                (error.kind(), error.chain().as_str()),
                (Kind::NotFound, "container does not exist")
            );
        }
        assert_eq!(Container::find(root.path(), "a/b").unwrap_err().kind(), Kind::Invalid);
    }
}
