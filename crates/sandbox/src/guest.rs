// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The agent of a guest, as typed calls with deadlines. Errors keep the kind and the words that the agent gave.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::agent::{
    ConfigureNetworkRequest, ContainerRequest, CreateContainerRequest, Event, ExecProcessRequest, HelloRequest,
    HelloResponse, ListProcessesResponse, NextEventRequest, NextWatchesRequest, RaiseEventsRequest, ReadMetricsRequest,
    ReadMetricsResponse, ReadProcessesRequest, ReadProcessesResponse, RemoveContainerRequest, RemoveProcessRequest,
    ResizePtyRequest, ResizeRequest, ResizeResponse, ShutdownRequest, SignalProcessRequest, StartContainerRequest,
    StatsContainerResponse, Stdio, UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse,
};
use api::agent_ttrpc::AgentClient;
use base::{Context, Result};
use metrics::Durations;
use tokio::net::UnixStream;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{self, Context as Call};

/// How long one may take that a tool of the host waits for.
const GLANCE: Duration = Duration::from_secs(10);
/// How long one may take that somebody makes who comes again.
const BRIEF: Duration = Duration::from_secs(4);
/// How long the guest may take to change its size: a block of memory that is in use takes seconds.
const SIZING: Duration = Duration::from_secs(300);
/// Bytes of randomness for a fresh guest: more than its pool has.
const ENTROPY: usize = 64;

/// See the module. A clone is the same connection.
#[derive(Clone)]
pub struct Guest {
    agent: AgentClient,
    /// How long a call may take that the guest answers at once; emulated guests on a busy host are slow.
    patience: Duration,
    durations: Arc<Durations>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}

/// Without a deadline.
fn whenever() -> Call {
    context::with_timeout(0)
}

impl Guest {
    /// Speaks to the agent at the other end of `stream` for the first time, see [`Guest::hello`].
    pub async fn greet(stream: UnixStream, patience: Duration, plugged: bool) -> Result<(Guest, HelloResponse)> {
        let agent = AgentClient::new(Client::new(Socket::new(stream)));
        let guest = Guest {
            agent,
            patience,
            durations: Arc::default(),
        };
        let answer = guest.hello(plugged).await?;
        Ok((guest, answer))
    }

    fn soon(&self) -> Call {
        context::with_duration(self.patience)
    }

    /// How long calls took.
    pub fn durations(&self) -> Arc<Durations> {
        Arc::clone(&self.durations)
    }

    /// Makes a call, which the agent knows as `action`.
    async fn call<T>(&self, action: &str, call: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
        let begin = Instant::now();
        let answer = call.await;
        self.durations.note(action, begin.elapsed());
        answer.map_err(|e| api::kind::error("guest", e))
    }

    /// Gives the agent the time, and randomness that no other guest has; network devices were `plugged` while it did not run.
    pub async fn hello(&self, plugged: bool) -> Result<HelloResponse> {
        let mut entropy = vec![0; ENTROPY];
        let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut entropy));
        read.attempt(|| "read /dev/urandom".into())?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let request = HelloRequest {
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            wall_clock_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            entropy,
            plugged,
            ..HelloRequest::default()
        };
        self.call("Hello", self.agent.hello(self.soon(), &request)).await
    }

    /// The guest's network becomes what `request` says.
    pub async fn configure_network(&self, request: &ConfigureNetworkRequest) -> Result<()> {
        self.call("ConfigureNetwork", self.agent.configure_network(self.soon(), request))
            .await
            .map(drop)
    }

    /// The container's init is made and waits.
    pub async fn create(&self, request: &CreateContainerRequest) -> Result<()> {
        self.call("CreateContainer", self.agent.create_container(self.soon(), request))
            .await
            .map(drop)
    }

    /// The container's init executes its program.
    pub async fn start(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest {
            id: id.to_owned(),
            ..StartContainerRequest::default()
        };
        self.call("StartContainer", self.agent.start_container(self.soon(), &request))
            .await
            .map(drop)
    }

    /// Everything of the container goes.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest {
            id: id.to_owned(),
            force: true,
            ..RemoveContainerRequest::default()
        };
        self.call("RemoveContainer", self.agent.remove_container(self.soon(), &request))
            .await
            .map(drop)
    }

    /// A further process runs.
    pub async fn exec(&self, id: &str, exec_id: &str, process: Vec<u8>, stdio: Stdio) -> Result<()> {
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            process,
            stdio: Some(stdio).into(),
            ..ExecProcessRequest::default()
        };
        self.call("ExecProcess", self.agent.exec_process(self.soon(), &request))
            .await
            .map(drop)
    }

    /// Forgets a process that has ended.
    pub async fn forget(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = RemoveProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..RemoveProcessRequest::default()
        };
        self.call("RemoveProcess", self.agent.remove_process(self.soon(), &request))
            .await
            .map(drop)
    }

    /// To one process, or with `all` to every process of the container.
    pub async fn signal(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = SignalProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..SignalProcessRequest::default()
        };
        self.call("SignalProcess", self.agent.signal_process(self.soon(), &request))
            .await
            .map(drop)
    }

    /// Answers when the process has ended.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitProcessResponse> {
        let request = WaitProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..WaitProcessRequest::default()
        };
        self.call("WaitProcess", self.agent.wait_process(whenever(), &request))
            .await
    }

    /// Sets a terminal's size, in characters.
    pub async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        self.call("ResizePty", self.agent.resize_pty(self.soon(), &request))
            .await
            .map(drop)
    }

    /// The container's processes.
    pub async fn processes(&self, id: &str) -> Result<ListProcessesResponse> {
        self.call("ListProcesses", self.agent.list_processes(self.soon(), &container(id)))
            .await
    }

    /// What the files of the container's own /proc say of its processes with greater pids than `after`. Somebody waits for it in
    /// the kernel: not for long.
    pub async fn files(&self, id: &str, after: u32) -> Result<ReadProcessesResponse> {
        let request = ReadProcessesRequest {
            id: id.to_owned(),
            after,
            ..ReadProcessesRequest::default()
        };
        let call = context::with_duration(GLANCE);
        self.call("ReadProcesses", self.agent.read_processes(call, &request))
            .await
    }

    /// Changes limits: `linux.resources` as JSON.
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<()> {
        let request = UpdateContainerRequest {
            id: id.to_owned(),
            resources,
            ..UpdateContainerRequest::default()
        };
        self.call("UpdateContainer", self.agent.update_container(self.soon(), &request))
            .await
            .map(drop)
    }

    /// Makes the guest as large as `request` says, as far as that goes.
    pub async fn set_size(&self, request: &ResizeRequest) -> Result<ResizeResponse> {
        self.call("Resize", self.agent.resize(context::with_duration(SIZING), request))
            .await
    }

    /// Freezes the container's processes, or thaws them.
    pub async fn freeze(&self, id: &str, frozen: bool) -> Result<()> {
        let container = container(id);
        let done = if frozen {
            let call = self.agent.pause_container(self.soon(), &container);
            self.call("PauseContainer", call).await
        } else {
            let call = self.agent.resume_container(self.soon(), &container);
            self.call("ResumeContainer", call).await
        };
        done.map(drop)
    }

    /// The container's counters.
    pub async fn stats(&self, id: &str) -> Result<StatsContainerResponse> {
        self.call(
            "StatsContainer",
            self.agent.stats_container(self.soon(), &container(id)),
        )
        .await
    }

    /// What the guest counts. Whoever asks does so every few seconds: a guest that does not answer at once is none.
    pub async fn metrics(&self) -> Result<ReadMetricsResponse> {
        let request = ReadMetricsRequest::new();
        let call = self.agent.read_metrics(context::with_duration(BRIEF), &request);
        self.call("ReadMetrics", call).await
    }

    /// Answers with the next event of any container.
    pub async fn event(&self) -> Result<Event> {
        self.call("NextEvent", self.agent.next_event(whenever(), &NextEventRequest::new()))
            .await
    }

    /// Answers with the places of volumes that are watched in the guest, when they are others than those seen, or after a while.
    pub async fn watches(&self, request: &NextWatchesRequest) -> Result<Vec<String>> {
        self.call("NextWatches", self.agent.next_watches(self.soon(), request))
            .await
            .map(|found| found.paths)
    }

    /// Watchers in the guest learn what the host has changed.
    pub async fn raise(&self, request: &RaiseEventsRequest) -> Result<()> {
        self.call("RaiseEvents", self.agent.raise_events(self.soon(), request))
            .await
            .map(drop)
    }

    /// Kills what runs and writes back what is not on the host's disk yet.
    pub async fn shutdown(&self, patience: Duration) -> Result<()> {
        let call = context::with_duration(patience);
        self.call("Shutdown", self.agent.shutdown(call, &ShutdownRequest::new()))
            .await
            .map(drop)
    }
}

fn container(id: &str) -> ContainerRequest {
    ContainerRequest {
        id: id.to_owned(),
        ..ContainerRequest::default()
    }
}
