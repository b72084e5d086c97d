// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A sandbox's life without a hypervisor: a sleeping process stands for the machine, and its agent answers from this process.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

use api::agent::{
    CreateContainerRequest, CreateContainerResponse, Empty, HelloRequest, HelloResponse, ShutdownRequest,
    SignalProcessRequest, StartContainerRequest, WaitProcessRequest, WaitProcessResponse,
};
use api::agent_ttrpc::{Agent, create_agent};
use async_trait::async_trait;
use machine::fake::{Fake, Service};
use ttrpc::r#async::TtrpcContext;

use super::*;
use crate::share::isolate;
use crate::{Measure, Patience};

/// An agent whose one process ends as it is told or signalled.
#[derive(Debug)]
struct Script {
    refusal: Option<Kind>,
    ended: tokio::sync::watch::Sender<Option<u32>>,
}

#[async_trait]
impl Agent for Script {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        assert!(request.wall_clock_ns > 0 && request.entropy.len() >= 32);
        Ok(HelloResponse::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        assert_eq!(request.attachments.len(), 1);
        match self.refusal {
            Some(kind) => Err(api::kind::reply(&Error::new(kind, "no such thing"))),
            None => Ok(CreateContainerResponse::new()),
        }
    }

    async fn start_container(&self, _: &TtrpcContext, _: StartContainerRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        self.ended.send_replace(Some(128 + request.signal));
        Ok(Empty::new())
    }

    async fn wait_process(&self, _: &TtrpcContext, _: WaitProcessRequest) -> ttrpc::Result<WaitProcessResponse> {
        let mut ended = self.ended.subscribe();
        let status = ended.wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(WaitProcessResponse {
            exit_status: status,
            ..WaitProcessResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }
}

/// What a test has at hand.
struct Stage {
    sandbox: Arc<Sandbox>,
    top: tempfile::TempDir,
    _server: ttrpc::r#async::Server,
}

impl Stage {
    async fn set(fake: Fake, refusal: Option<Kind>) -> Stage {
        let top = tempfile::tempdir().unwrap();
        let bundle = top.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let spec = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},
            "process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"}}"#;
        fs::write(bundle.join("config.json"), spec).unwrap();
        let dir = top.path().join("s1");
        fs::create_dir(&dir).unwrap();

        let agent = Arc::new(Script {
            refusal,
            ended: tokio::sync::watch::Sender::new(None),
        });
        let socket = top.path().join("agent.sock");
        let mut server = ttrpc::r#async::Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_agent(agent));
        server.start().await.unwrap();
        let service: Service = Arc::new(move |mut stream| {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut agent = tokio::net::UnixStream::connect(socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
            });
        });
        let fake = Fake {
            services: BTreeMap::from([(api::port::CONTROL, service)]),
            knock: Some(api::port::CONTROL),
            ..fake
        };
        let plan = Blueprint {
            template: None,
            backend: Box::new(fake),
            binary: None,
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            kernel_params: String::new(),
            pod: None,
            vcpus: None,
            memory_mib: None,
            measure: Measure::default(),
            patience: Patience::default(),
            network: None,
            passt: Mutex::default(),
            deadline: Duration::from_secs(20),
            queue: None,
            program: "/proc/self/exe".into(),
        };
        let share = Share::open(&dir).unwrap();
        let sandbox = Sandbox::new("s1", &dir, share, plan, None, Spans::since(Instant::now())).unwrap();
        Stage {
            sandbox,
            top,
            _server: server,
        }
    }

    async fn create(&self) -> Result<()> {
        let create = Create {
            id: "c1".into(),
            bundle: self.top.path().join("bundle"),
            rootfs: Vec::new(),
            stdio: Stdio::new(),
            pause: false,
        };
        self.sandbox.expect("c1", Origin::default())?;
        self.sandbox.create(create).await
    }

    fn status(&self) -> Status {
        self.sandbox.view("c1", "").unwrap().status
    }

    fn saved(&self) -> String {
        fs::read_to_string(self.top.path().join("s1/state.json")).unwrap()
    }
}

/// On a thread with a mount namespace of its own, as the monitor has one.
fn play<F: Future<Output = ()>>(act: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounts need root");
        return;
    }
    let thread = std::thread::spawn(|| {
        isolate().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(act());
    });
    thread.join().unwrap();
}

#[test]
fn a_container_lives_and_nothing_stays() {
    play(|| async {
        let stage = Stage::set(Fake::default(), None).await;
        stage.create().await.unwrap();
        assert_eq!(stage.status(), Status::Created);
        assert_eq!(stage.create().await.unwrap_err().kind(), Kind::Exists);
        assert_eq!(stage.sandbox.delete("c1", "").await.unwrap_err().kind(), Kind::State);
        stage.sandbox.start("c1", "").await.unwrap();
        assert_eq!(stage.status(), Status::Running);
        assert_eq!(stage.sandbox.start("c1", "").await.unwrap_err().kind(), Kind::State);
        stage.sandbox.kill("c1", "", 15, false).await.unwrap();
        assert_eq!(stage.sandbox.wait("c1", "").await.unwrap().status, 143);
        assert_eq!(stage.status(), Status::Stopped);
        // Nobody carries it: the machine goes at once, the record stays.
        assert_eq!(stage.sandbox.down().await, None);
        assert!(stage.saved().contains("\"phase\":\"down\""), "{}", stage.saved());
        assert_eq!(stage.sandbox.delete("c1", "").await.unwrap().status, 143);
        stage.sandbox.emptied().await;
        assert!(!stage.top.path().join("s1/shared/c1").exists());
        assert_eq!(stage.sandbox.view("c1", "").unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_machine_that_dies_takes_its_processes_and_says_why() {
    play(|| async {
        let stage = Stage::set(Fake::default(), None).await;
        stage.create().await.unwrap();
        stage.sandbox.start("c1", "").await.unwrap();
        let saved: Saved = serde_json::from_str(&stage.saved()).unwrap();
        machine::clean(&saved.machine.unwrap().0).unwrap();
        let exit = stage.sandbox.wait("c1", "").await.unwrap();
        assert_eq!(exit.status, 137);
        let reason = exit.reason.unwrap();
        assert!(reason.contains("fake was killed by SIGKILL"), "{reason}");
        assert!(stage.saved().contains("was killed by SIGKILL"));
        let gone = stage.sandbox.kill("c1", "", 9, false).await.unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
        stage.sandbox.delete("c1", "").await.unwrap();
    });
}

#[test]
fn a_shim_that_dies_takes_its_process() {
    play(|| async {
        let stage = Stage::set(Fake::default(), None).await;
        stage.create().await.unwrap();
        let mut shim = Command::new("sleep").arg("60").spawn().unwrap();
        stage.sandbox.attach("c1", "", shim.id()).unwrap();
        let again = stage.sandbox.attach("c1", "", shim.id()).unwrap_err();
        assert_eq!(again.kind(), Kind::Exists);
        assert_eq!(stage.sandbox.view("c1", "").unwrap().pid, shim.id());
        shim.kill().unwrap();
        let exit = stage.sandbox.wait("c1", "").await.unwrap();
        assert_eq!(exit.status, 137);
        assert!(exit.reason.unwrap().contains("shim"));
        shim.wait().unwrap();
        assert_eq!(stage.sandbox.down().await, None);
    });
}

#[test]
fn refusals_keep_their_kind_and_leave_nothing() {
    play(|| async {
        let stage = Stage::set(Fake::default(), Some(Kind::Unsupported)).await;
        let error = stage.create().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.chain(), "guest: no such thing");
        assert!(!stage.top.path().join("s1/shared/c1").exists());

        let broken = Fake {
            failure: Some("no power".into()),
            ..Fake::default()
        };
        let stage = Stage::set(broken, None).await;
        let error = stage.create().await.unwrap_err();
        assert!(error.chain().contains("no power"), "{}", error.chain());
        assert!(!stage.top.path().join("s1/shared/c1").exists());
    });
}
