// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A sandbox on the wire: containerd's Task service and our own Monitor service, on one socket. Each call is one call of
//! [`Sandbox`]; errors keep their kind.

use std::collections::HashMap;
use std::sync::Arc;

use api::agent::Stdio;
use api::monitor::{
    AttachRequest, AttachResponse, InspectRequest, InspectResponse, OomRequest, OomResponse, ProcessesRequest,
    ProcessesResponse,
};
use api::task::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, Status as TaskStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use api::task::shim_async::{Task, create_task};
use async_trait::async_trait;
use base::{Context, Error, Kind, Result};
use oci::Status;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, Message, MessageField};
use ttrpc::r#async::{Service, TtrpcContext};

use crate::metrics::timed;
use crate::process::Exit;
use crate::sandbox::{Create, Sandbox};
use crate::share::RootMount;
use crate::stats;

/// The Task service's names: containerd 1 asks for v2, containerd 2 for v3; the calls are the same.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// Both services, for a ttrpc server.
pub fn services(sandbox: &Arc<Sandbox>) -> HashMap<String, Service> {
    let service = Arc::new(Wire(Arc::clone(sandbox)));
    let mut services = HashMap::new();
    for name in TASK {
        let task = create_task(Arc::clone(&service) as Arc<dyn Task + Send + Sync>);
        let timed = task.into_values().map(|service| timed(service, sandbox.calls()));
        services.extend(timed.map(|service| (name.to_owned(), service)));
    }
    services.extend(api::monitor_ttrpc::create_monitor(service));
    services
}

struct Wire(Arc<Sandbox>);

/// A result as it goes over the wire.
fn reply<T>(done: Result<T>) -> ttrpc::Result<T> {
    done.map_err(|e| {
        log::debug!("{e:?}");
        api::kind::reply(&e)
    })
}

fn nothing(done: Result<()>) -> ttrpc::Result<Empty> {
    reply(done).map(|()| Empty::new())
}

fn timestamp(nanoseconds: u64) -> MessageField<Timestamp> {
    Some(Timestamp {
        seconds: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanoseconds % 1_000_000_000).unwrap_or_default(),
        ..Timestamp::default()
    })
    .into()
}

fn exited_at(exit: Option<&Exit>) -> MessageField<Timestamp> {
    exit.map_or_else(MessageField::none, |exit| timestamp(exit.at_ns))
}

/// A stream exists when the client names a place for it.
fn streams(stdin: &str, stdout: &str, stderr: &str) -> Stdio {
    Stdio {
        stdin: !stdin.is_empty(),
        stdout: !stdout.is_empty(),
        stderr: !stderr.is_empty(),
        ..Stdio::default()
    }
}

/// The JSON in a message of any type that travels so.
fn json(any: MessageField<Any>, what: &str) -> Result<Vec<u8>> {
    let any = any.into_option();
    any.map(|any| any.value)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::new(Kind::Invalid, format!("{what} is missing")))
}

#[async_trait]
impl Task for Wire {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let view = reply(self.0.view(&request.id, &request.exec_id))?;
        let status = match view.status {
            Status::Creating => TaskStatus::UNKNOWN,
            Status::Created => TaskStatus::CREATED,
            Status::Running => TaskStatus::RUNNING,
            Status::Paused => TaskStatus::PAUSED,
            Status::Stopped => TaskStatus::STOPPED,
        };
        Ok(StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: view.bundle.display().to_string(),
            pid: view.pid,
            status: EnumOrUnknown::new(status),
            terminal: view.terminal,
            exit_status: view.exit.as_ref().map_or(0, |exit| exit.status),
            exited_at: exited_at(view.exit.as_ref()),
            ..StateResponse::default()
        })
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return reply(Err(Error::new(
                Kind::Unsupported,
                "restore a container from a checkpoint",
            )));
        }
        let rootfs = request.rootfs.into_iter().map(|mount| RootMount {
            kind: mount.type_,
            source: mount.source,
            options: mount.options,
        });
        let create = Create {
            stdio: streams(&request.stdin, &request.stdout, &request.stderr),
            bundle: request.bundle.into(),
            rootfs: rootfs.collect(),
            id: request.id,
            pause: request
                .options
                .into_option()
                .is_some_and(|options| options.type_url == api::pause::OPTIONS),
        };
        reply(self.0.create(create).await)?;
        Ok(CreateTaskResponse::new())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        reply(self.0.start(&request.id, &request.exec_id).await)?;
        let view = reply(self.0.view(&request.id, &request.exec_id))?;
        Ok(StartResponse {
            pid: view.pid,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let exit = reply(self.0.delete(&request.id, &request.exec_id).await)?;
        Ok(DeleteResponse {
            exit_status: exit.status,
            exited_at: exited_at(Some(&exit)),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let processes = reply(self.0.processes(&request.id).await)?;
        let processes = processes.into_iter().map(|process| {
            let detail = serde_json::json!({
                "uid": process.uid, "ppid": process.ppid, "command": process.command, "exec_id": process.exec_id
            });
            let info = Any {
                type_url: "kata.dev/process+json".to_owned(),
                value: detail.to_string().into_bytes(),
                ..Any::default()
            };
            ProcessInfo {
                pid: process.pid,
                info: Some(info).into(),
                ..ProcessInfo::default()
            }
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        nothing(self.0.freeze(&request.id, true).await)
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        nothing(self.0.freeze(&request.id, false).await)
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        reply(Err(Error::new(Kind::Unsupported, "checkpoint a container")))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        nothing(
            self.0
                .kill(&request.id, &request.exec_id, request.signal, request.all)
                .await,
        )
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let stdio = streams(&request.stdin, &request.stdout, &request.stderr);
        let process = reply(json(request.spec, "the process"))?;
        nothing(
            self.0
                .define(&request.id, &request.exec_id, process, request.terminal, stdio),
        )
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let done = self
            .0
            .resize(&request.id, &request.exec_id, request.width, request.height);
        nothing(done.await)
    }

    async fn close_io(&self, _: &TtrpcContext, _: CloseIORequest) -> ttrpc::Result<Empty> {
        // Whoever carries the streams closes them.
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = reply(json(request.resources, "the resources"))?;
        nothing(self.0.update(&request.id, resources).await)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = reply(self.0.wait(&request.id, &request.exec_id).await)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: exited_at(Some(&exit)),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = reply(self.0.stats(&request.id).await)?;
        let metrics = stats::metrics(&stats).write_to_bytes();
        let any = Any {
            type_url: stats::TYPE.to_owned(),
            value: reply(metrics.context(Kind::Bug, || "write the statistics".into()))?,
            ..Any::default()
        };
        Ok(StatsResponse {
            stats: Some(any).into(),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let view = reply(self.0.view(&request.id, ""))?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: view.pid,
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        // The monitor goes by itself once its last container is deleted.
        Ok(Empty::new())
    }
}

#[async_trait]
impl api::monitor_ttrpc::Monitor for Wire {
    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> ttrpc::Result<AttachResponse> {
        reply(self.0.attach(&request.id, &request.exec_id, request.pid))?;
        Ok(AttachResponse::new())
    }

    async fn inspect(&self, _: &TtrpcContext, _: InspectRequest) -> ttrpc::Result<InspectResponse> {
        Ok(InspectResponse {
            json: reply(self.0.saved().json())?,
            ..InspectResponse::default()
        })
    }

    async fn oom(&self, _: &TtrpcContext, request: OomRequest) -> ttrpc::Result<OomResponse> {
        Ok(OomResponse {
            kills: reply(self.0.oom(&request.id, request.seen).await)?,
            ..OomResponse::default()
        })
    }

    async fn processes(&self, _: &TtrpcContext, request: ProcessesRequest) -> ttrpc::Result<ProcessesResponse> {
        let files = reply(self.0.files(&request.id, request.after).await)?;
        let table = files.write_to_bytes();
        Ok(ProcessesResponse {
            table: reply(table.context(Kind::Bug, || "write the processes".into()))?,
            ..ProcessesResponse::default()
        })
    }
}
