// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A machine without a hypervisor, for the tests of the layers above: a sleeping process stands for it, and its "guest"
//! answers on the hybrid socket inside the test's own process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::{Backend, Caps, Machine, MachineSpec, SavedMachine, hybrid, process};

/// What is done with a connection to one of the guest's ports.
pub type Service = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// A backend whose guest does what a test says.
#[derive(Clone, Default)]
pub struct Fake {
    /// Ports on which the guest listens; it refuses all others.
    pub services: BTreeMap<u32, Service>,
    /// A host port that the guest dials once when it is up.
    pub knock: Option<u32>,
    /// Launching fails with these words.
    pub failure: Option<String>,
    /// What the guest has printed.
    pub console: String,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<&u32> = self.services.keys().collect();
        f.debug_struct("Fake").field("ports", &ports).finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn caps(&self) -> Caps {
        Caps {
            own_devices: true,
            pause: true,
            accelerated: false,
            templates: false,
        }
    }

    async fn launch(&self, spec: &MachineSpec, dir: &Path) -> Result<Box<dyn Machine>> {
        if let Some(why) = &self.failure {
            return Err(Error::new(Kind::Gone, why.clone()));
        }
        let hybrid = dir.join(&spec.vsock.hybrid);
        let listener = base::socket::listen(&hybrid)?;
        listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        let listener = UnixListener::from_std(listener).attempt(|| "watch a listener".into())?;
        let child = process::spawn(Command::new("sleep").arg("1000000").stdin(Stdio::null()), &[], None)?;
        let pid = i32::try_from(child.id()).context(Kind::Bug, || "read a pid".into())?;
        let machine = FakeMachine {
            process: Pidfd::open(pid)?,
            start_time: process::start_time(pid)?,
            child,
            guest: tokio::spawn(listen(listener, self.services.clone())),
            console: self.console.clone(),
            hybrid: hybrid.clone(),
        };
        if let Some(port) = self.knock {
            let mut name = hybrid.into_os_string();
            name.push(format!("_{port}"));
            base::socket::connect(Path::new(&name))?;
        }
        Ok(Box::new(machine))
    }
}

/// The guest's side of the hybrid socket.
async fn listen(listener: UnixListener, services: BTreeMap<u32, Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream = BufReader::with_capacity(1, stream);
        let mut line = String::new();
        let asked = stream.read_line(&mut line).await;
        let port = line
            .strip_prefix("CONNECT ")
            .and_then(|port| port.trim_end().parse().ok());
        if let (Ok(_), Some(service)) = (asked, port.and_then(|port: u32| services.get(&port)))
            && stream.write_all(b"OK 1\n").await.is_ok()
        {
            service(stream.into_inner());
        }
    }
}

#[derive(Debug)]
struct FakeMachine {
    process: Pidfd,
    start_time: u64,
    child: Child,
    guest: JoinHandle<()>,
    console: String,
    hybrid: PathBuf,
}

#[async_trait]
impl Machine for FakeMachine {
    fn process(&self) -> &Pidfd {
        &self.process
    }

    async fn dial(&self, port: u32) -> Result<UnixStream> {
        hybrid::dial(&self.hybrid, port).await
    }

    async fn set_running(&mut self, running: bool) -> Result<()> {
        let signal = if running { libc::SIGCONT } else { libc::SIGSTOP };
        self.process.signal(signal)
    }

    async fn kill(&mut self) -> Result<()> {
        self.guest.abort();
        self.process.kill()
    }

    fn console(&self) -> String {
        self.console.clone()
    }

    fn cause(&self) -> Option<String> {
        process::ending(&self.process).map(|ending| format!("fake {ending}"))
    }

    fn save(&self) -> SavedMachine {
        SavedMachine {
            backend: "fake".into(),
            pid: self.process.pid(),
            start_time: self.start_time,
        }
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        self.guest.abort();
        // A test's process: nobody is left to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::VsockSpec;

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 1,
            memory_mib: 1,
            most_vcpus: 1,
            most_memory_mib: 1,
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            kernel_params: String::new(),
            shares: Vec::new(),
            vsock: VsockSpec {
                cid: 3,
                socket: "vu.sock".into(),
                hybrid: "vsock.sock".into(),
            },
            nics: Vec::new(),
            binary: None,
            patience: std::time::Duration::from_secs(30),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_answers_knocks_and_dies() {
        let dir = tempfile::tempdir().unwrap();
        let knocked = UnixListener::bind(dir.path().join("vsock.sock_1024")).unwrap();
        let greet: Service = Arc::new(|mut stream| {
            tokio::spawn(async move { stream.write_all(b"hello").await });
        });
        let fake = Fake {
            services: BTreeMap::from([(7, greet)]),
            knock: Some(1024),
            ..Fake::default()
        };
        let mut machine = fake.launch(&spec(), dir.path()).await.unwrap();
        knocked.accept().await.unwrap();
        let mut said = String::new();
        machine.dial(7).await.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        assert_eq!(machine.dial(8).await.unwrap_err().kind(), Kind::NotFound);
        let saved = machine.save();
        assert!(crate::clean(&saved).unwrap());
        assert_eq!(machine.cause().unwrap(), "fake was killed by SIGKILL");
        machine.kill().await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_launch_fails_on_demand() {
        let fake = Fake {
            failure: Some("no power".into()),
            ..Fake::default()
        };
        let failed = fake.launch(&spec(), Path::new("/no/such")).await.unwrap_err();
        assert_eq!((failed.kind(), failed.chain().as_str()), (Kind::Gone, "no power"));
    }
}
