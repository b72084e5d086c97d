// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The control port: each call of the contract, carried out and answered. It knows the wire's types and no process.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::agent::{
    Addresses, ConfigureNetworkRequest, ContainerRequest, CreateContainerRequest, CreateContainerResponse, Empty,
    Event, ExecProcessRequest, ExecProcessResponse, HelloRequest, HelloResponse, IoStat, ListProcessesResponse,
    NextEventRequest, NextWatchesRequest, Process, ProcessFiles, RaiseEventsRequest, ReadMetricsRequest,
    ReadMetricsResponse, ReadProcessesRequest, ReadProcessesResponse, RemoveContainerRequest, RemoveProcessRequest,
    ResizePtyRequest, ResizeRequest, ResizeResponse, ShutdownRequest, SignalProcessRequest, StartContainerRequest,
    StatsContainerResponse, UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse, Watches,
};
use api::agent_ttrpc::{Agent, create_agent};
use api::{kind, port};
use async_trait::async_trait;
use base::{Context, Error, Kind, Result};
use guest::table::{self, Table};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};
use ttrpc::r#async::TtrpcContext;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::boot::Booted;
use crate::container::Container;
use crate::containers::Containers;
use crate::events::Events;
use crate::hello::Greeter;
use crate::network::{self, Network};
use crate::power;
use crate::reaper::Reaper;
use crate::resolver::Resolver;
use crate::size::{self, Size};
use crate::streams::Streams;
use crate::watches::Watching;
use crate::{forward, metrics, nic, notice, template};

/// Threads stay: when a workload leaves none for us to make, those that we have still serve.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How long containers, disks and streams may take to end before the machine is switched off all the same.
const ENDING: Duration = Duration::from_secs(10);
/// How long the host may take to fetch the last output.
const FETCHING: Duration = Duration::from_secs(2);

/// Serves for ever. Errors: what keeps it from beginning to.
pub fn run(booted: Booted) -> Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOR_EVER)
        .build()
        .attempt(|| "start the runtime".into())?;
    runtime.block_on(serve(booted))
}

async fn serve(booted: Booted) -> Result<Infallible> {
    let children = Reaper::listen().attempt(|| "ask for signals of children".into())?;
    let (reaper, events) = (Arc::<Reaper>::default(), Arc::<Events>::default());
    let containers = Arc::new(Containers::new(Arc::clone(&reaper), Arc::clone(&events)));
    let streams = Arc::new(Streams::new(Arc::clone(&containers)));
    let first = Arc::clone(&containers);
    let service = Service {
        greeter: Greeter::new()?,
        containers,
        network: Arc::new(Network::begin()?),
        resolver: Resolver::default(),
        events,
        streams: Arc::clone(&streams),
        watching: Arc::default(),
    };
    let mut server = Server::new()
        .add_listener(Listener::from(listen(port::CONTROL)?))
        .register_service(create_agent(Arc::new(service)));
    let (stdio, services) = (listen(port::STDIO)?, listen(port::FORWARD)?);
    server.start().await.context(Kind::Bug, || "start the server".into())?;
    tokio::spawn(reaper.run(children));
    tokio::spawn(forward::serve(services));
    // The thread stays, for the first call that blocks.
    spawn_blocking(move || {
        first.prepare();
        if booted.template {
            template::offer(first.shares());
        }
    });
    if !booted.template {
        tokio::spawn(knock());
    }
    streams.serve(stdio).await
}

fn listen(port: u32) -> Result<VsockListener> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).attempt(|| format!("listen on vsock port {port}"))
}

/// Tells the host that it can dial.
async fn knock() {
    match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port::CONTROL)).await {
        Ok(_) => log::info!("knocked"),
        // Somebody may dial nevertheless.
        Err(e) => log::warn!("knock at the host's port {}: {e}", port::CONTROL),
    }
}

#[derive(Debug)]
struct Service {
    greeter: Greeter,
    containers: Arc<Containers>,
    network: Arc<Network>,
    resolver: Resolver,
    events: Arc<Events>,
    streams: Arc<Streams>,
    watching: Arc<Watching>,
}

impl Service {
    /// Does what blocks on a thread of its own; it is done to its end even if the caller goes.
    async fn all<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Containers) -> Result<T> + Send + 'static,
    ) -> ttrpc::Result<T> {
        let containers = Arc::clone(&self.containers);
        let done = spawn_blocking(move || work(&containers)).await;
        let done = done.unwrap_or_else(|e| Err(Error::new(Kind::Bug, "run a call").because(e)));
        done.map_err(|e| kind::reply(&e))
    }

    /// As [`Service::all`], with one container.
    async fn with<T: Send + 'static>(
        &self,
        id: String,
        work: impl FnOnce(&Container) -> Result<T> + Send + 'static,
    ) -> ttrpc::Result<T> {
        self.all(move |containers| work(&*containers.get(&id)?)).await
    }
}

fn pid(pid: i32) -> u32 {
    pid.unsigned_abs()
}

#[async_trait]
impl Agent for Service {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        let plugged = request.plugged;
        let answer = self.greeter.hello(&request).map_err(|e| kind::reply(&e))?;
        if plugged {
            self.all(|_| nic::look()).await?;
        }
        Ok(answer)
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        let created = self.all(move |containers| containers.create(&request)).await?;
        Ok(CreateContainerResponse {
            pid: pid(created),
            ..CreateContainerResponse::default()
        })
    }

    async fn start_container(&self, _: &TtrpcContext, request: StartContainerRequest) -> ttrpc::Result<Empty> {
        self.with(request.id, Container::start).await?;
        Ok(Empty::new())
    }

    async fn remove_container(&self, _: &TtrpcContext, request: RemoveContainerRequest) -> ttrpc::Result<Empty> {
        self.all(move |containers| containers.remove(&request.id, request.force))
            .await?;
        // For the next one, when nobody waits for us.
        let containers = Arc::clone(&self.containers);
        spawn_blocking(move || containers.prepare());
        Ok(Empty::new())
    }

    async fn exec_process(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<ExecProcessResponse> {
        let id = request.id.clone();
        let started = self.with(id, move |container| container.exec(&request)).await?;
        Ok(ExecProcessResponse {
            pid: pid(started),
            ..ExecProcessResponse::default()
        })
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        let id = request.id.clone();
        self.with(id, move |container| container.signal(&request)).await?;
        Ok(Empty::new())
    }

    async fn wait_process(&self, _: &TtrpcContext, request: WaitProcessRequest) -> ttrpc::Result<WaitProcessResponse> {
        let container = self.containers.get(&request.id);
        let process = container.and_then(|container| container.process(&request.exec_id));
        let mut ended = process.map_err(|e| kind::reply(&e))?.ended();
        let exit = match ended.wait_for(Option::is_some).await {
            Ok(exit) => *exit,
            Err(_) => None,
        };
        let exit = exit.ok_or_else(|| kind::reply(&Error::new(Kind::Bug, "a process was forgotten")))?;
        Ok(WaitProcessResponse {
            exit_status: exit.status,
            exited_at_ns: exit.at_ns,
            oom_killed: exit.oom_killed,
            ..WaitProcessResponse::default()
        })
    }

    async fn remove_process(&self, _: &TtrpcContext, request: RemoveProcessRequest) -> ttrpc::Result<Empty> {
        let RemoveProcessRequest { id, exec_id, .. } = request;
        self.with(id, move |container| container.forget(&exec_id)).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let resized = self.containers.get(&request.id).and_then(|container| {
            let process = container.process(&request.exec_id)?;
            process.resize(request.width, request.height)
        });
        resized.map_err(|e| kind::reply(&e))?;
        Ok(Empty::new())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        let processes = self.with(request.id, |container| {
            Ok(list(container, container.inner().processes()?))
        });
        Ok(ListProcessesResponse {
            processes: processes.await?,
            ..ListProcessesResponse::default()
        })
    }

    async fn read_processes(
        &self,
        _: &TtrpcContext,
        request: ReadProcessesRequest,
    ) -> ttrpc::Result<ReadProcessesResponse> {
        let ReadProcessesRequest { id, after, .. } = request;
        let table = self.with(id, move |container| table::read(container.root()?, after));
        Ok(files(table.await?))
    }

    async fn update_container(&self, _: &TtrpcContext, request: UpdateContainerRequest) -> ttrpc::Result<Empty> {
        let UpdateContainerRequest { id, resources, .. } = request;
        self.with(id, move |container| container.update(&resources)).await?;
        Ok(Empty::new())
    }

    async fn pause_container(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        self.with(request.id, Container::pause).await?;
        Ok(Empty::new())
    }

    async fn resume_container(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        self.with(request.id, Container::resume).await?;
        Ok(Empty::new())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<StatsContainerResponse> {
        let stats = self.with(request.id, |container| container.inner().stats());
        Ok(counters(stats.await?))
    }

    async fn configure_network(&self, _: &TtrpcContext, request: ConfigureNetworkRequest) -> ttrpc::Result<Empty> {
        let server = network::resolver(&request).and_then(|server| self.resolver.serve(server));
        server.map_err(|e| kind::reply(&e))?;
        let network = Arc::clone(&self.network);
        self.all(move |_| network.configure(&request)).await?;
        Ok(Empty::new())
    }

    async fn resize(&self, _: &TtrpcContext, request: ResizeRequest) -> ttrpc::Result<ResizeResponse> {
        let wanted = Size {
            vcpus: request.vcpus,
            more_memory: request.more_memory,
        };
        let places: Vec<_> = request.places.iter().map(|place| place.start..place.end).collect();
        let reached = self.all(move |_| size::resize(&wanted, &places)).await?;
        let unused = reached.unused.into_iter().map(|unused| Addresses {
            start: unused.start,
            end: unused.end,
            ..Addresses::default()
        });
        Ok(ResizeResponse {
            vcpus: reached.size.vcpus,
            more_memory: reached.size.more_memory,
            unused: unused.collect(),
            reason: reached.reasons.join("; "),
            ..ResizeResponse::default()
        })
    }

    async fn next_event(&self, _: &TtrpcContext, _: NextEventRequest) -> ttrpc::Result<Event> {
        Ok(self.events.next().await)
    }

    async fn next_watches(&self, _: &TtrpcContext, request: NextWatchesRequest) -> ttrpc::Result<Watches> {
        let found = self.watching.next(self.containers.shares(), request).await;
        found.map_err(|e| kind::reply(&e))
    }

    async fn read_metrics(&self, _: &TtrpcContext, _: ReadMetricsRequest) -> ttrpc::Result<ReadMetricsResponse> {
        self.all(|_| Ok(metrics::read())).await
    }

    async fn raise_events(&self, _: &TtrpcContext, request: RaiseEventsRequest) -> ttrpc::Result<Empty> {
        self.all(move |containers| notice::raise(containers.shares(), &request))
            .await?;
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        let clear = self.all(|containers| {
            containers.clear();
            nix::unistd::sync();
            Ok(())
        });
        if timeout(ENDING, clear).await.is_err() {
            log::warn!("containers do not end: switching off");
        }
        let streams = Arc::clone(&self.streams);
        tokio::spawn(async move {
            let _ = timeout(FETCHING, streams.brought()).await;
            power::off().await;
        });
        Ok(Empty::new())
    }
}

fn list(container: &Container, tasks: Vec<guest::Task>) -> Vec<Process> {
    let names = container.names();
    let name = |pid: i32| names.iter().find(|(_, own)| *own == pid).map(|(name, _)| name.clone());
    let tasks = tasks.into_iter().map(|task| Process {
        pid: pid(task.pid),
        exec_id: name(task.pid).unwrap_or_default(),
        ppid: pid(task.ppid),
        uid: task.uid,
        command: task.command,
        ..Process::default()
    });
    tasks.collect()
}

fn files(table: Table) -> ReadProcessesResponse {
    let processes = table.rows.into_iter().map(|row| ProcessFiles {
        pid: row.pid,
        stat: row.stat,
        status: row.status,
        cmdline: row.cmdline,
        comm: row.comm,
        ..ProcessFiles::default()
    });
    ReadProcessesResponse {
        processes: processes.collect(),
        more: table.more,
        stat: table.stat,
        uptime: table.uptime,
        ..ReadProcessesResponse::default()
    }
}

fn counters(stats: guest::cgroup::Stats) -> StatsContainerResponse {
    let io = stats.io.into_iter().map(|io| IoStat {
        major: io.major,
        minor: io.minor,
        read_bytes: io.read_bytes,
        write_bytes: io.write_bytes,
        read_ops: io.read_ops,
        write_ops: io.write_ops,
        ..IoStat::default()
    });
    StatsContainerResponse {
        cpu_usage_usec: stats.cpu_usage_usec,
        cpu_user_usec: stats.cpu_user_usec,
        cpu_system_usec: stats.cpu_system_usec,
        cpu_nr_periods: stats.cpu_nr_periods,
        cpu_nr_throttled: stats.cpu_nr_throttled,
        cpu_throttled_usec: stats.cpu_throttled_usec,
        memory_current: stats.memory_current,
        memory_peak: stats.memory_peak,
        memory_max: stats.memory_max,
        memory_stat: stats.memory_stat,
        memory_events: stats.memory_events,
        memory_swap_current: stats.memory_swap_current,
        pids_current: stats.pids_current,
        pids_max: stats.pids_max,
        io: io.collect(),
        ..StatsContainerResponse::default()
    }
}
