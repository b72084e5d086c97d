// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! containerd's Task service. What changes a task is in [`Tasks`]; the rest is asked of the monitor.

use std::collections::HashMap;
use std::sync::Arc;

use api::task::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, Status as TaskStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use api::task::shim::oci::ProcessDetails;
use api::task::shim_async::{Task, create_task};
use async_trait::async_trait;
use base::{Context, Error, Kind, Result};
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message, MessageField};
use ttrpc::r#async::{Service, TtrpcContext};

use super::metrics;
use super::monitor::{patient, told};
use super::tasks::Tasks;

/// containerd 1 asks for v2, containerd 2 for v3; the calls are the same.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// For a ttrpc server.
pub fn services(tasks: &Arc<Tasks>) -> HashMap<String, Service> {
    let mut services = HashMap::new();
    for name in NAMES {
        let service = Arc::new(Wire(Arc::clone(tasks))) as Arc<dyn Task + Send + Sync>;
        let made = create_task(service).into_values();
        services.extend(made.map(|service| (name.to_owned(), service)));
    }
    services
}

struct Wire(Arc<Tasks>);

/// What containerd says of each kind of error. Clients look for these words; those of containerd 2 show what a shim says as it is.
const WORDS: [(Kind, &str); 6] = [
    (Kind::NotFound, "not found"),
    (Kind::Exists, "already exists"),
    (Kind::Invalid, "invalid argument"),
    (Kind::State, "failed precondition"),
    (Kind::Unsupported, "not implemented"),
    (Kind::Gone, "unavailable"),
];

/// A result as it goes over the wire.
pub fn reply<T>(done: Result<T>) -> ttrpc::Result<T> {
    done.map_err(|e| {
        log::debug!("{e:?}");
        let mut status = api::kind::status(&e);
        if let Some((_, words)) = WORDS.iter().find(|(kind, _)| *kind == e.kind()) {
            status.message = format!("{}: {words}", status.message);
        }
        ttrpc::Error::RpcStatus(status)
    })
}

fn nothing(done: Result<()>) -> ttrpc::Result<Empty> {
    reply(done).map(|()| Empty::new())
}

impl Wire {
    async fn status(&self, request: &StateRequest) -> Result<StateResponse> {
        let (id, exec_id) = (&request.id, &request.exec_id);
        let mut response = {
            let mut containers = self.0.containers();
            let container = containers.find(id)?;
            let bundle = container.bundle.clone();
            let process = containers.process(id, exec_id)?;
            let exit = process.ended();
            StateResponse {
                id: id.clone(),
                exec_id: exec_id.clone(),
                bundle,
                pid: process.pid,
                status: EnumOrUnknown::new(process.status()),
                stdin: process.places.stdin.clone(),
                stdout: process.places.stdout.clone(),
                stderr: process.places.stderr.clone(),
                terminal: process.places.terminal,
                exit_status: exit.as_ref().map_or(0, |exit| exit.status),
                exited_at: exit.map_or_else(MessageField::none, |exit| exit.at),
                ..StateResponse::default()
            }
        };
        // Only the monitor knows of pauses. Without it the process is about to end.
        if response.status == EnumOrUnknown::new(TaskStatus::RUNNING)
            && let Ok(monitor) = self.0.monitor(id)
            && let Ok(view) = monitor.task.state(patient(), request).await
            && view.status == EnumOrUnknown::new(TaskStatus::PAUSED)
        {
            response.status = view.status;
        }
        Ok(response)
    }

    async fn signal(&self, request: &KillRequest) -> Result<()> {
        let monitor = self.0.monitor(&request.id)?;
        let finished = || Error::new(Kind::NotFound, "process already finished");
        if self
            .0
            .containers()
            .process(&request.id, &request.exec_id)?
            .ended()
            .is_some()
        {
            return Err(finished());
        }
        match told(&request.id, monitor.task.kill(patient(), request).await) {
            // It has ended, and its shim is about to.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => Err(finished().because(e)),
            other => other.map(drop),
        }
    }

    /// The host processes that stand for the container's: containerd's users look for them on the host.
    fn processes(&self, id: &str) -> Result<Vec<ProcessInfo>> {
        let mut containers = self.0.containers();
        let alive = containers
            .find(id)?
            .processes
            .iter()
            .filter(|(_, process)| process.alive());
        let info = |exec_id: &str| -> Result<MessageField<Any>> {
            if exec_id.is_empty() {
                return Ok(MessageField::none());
            }
            let details = ProcessDetails {
                exec_id: exec_id.to_owned(),
                ..ProcessDetails::default()
            };
            let any = Any {
                type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
                value: details
                    .write_to_bytes()
                    .context(Kind::Bug, || "write a process".into())?,
                ..Any::default()
            };
            Ok(Some(any).into())
        };
        alive
            .map(|(exec_id, process)| {
                Ok(ProcessInfo {
                    pid: process.pid,
                    info: info(exec_id)?,
                    ..ProcessInfo::default()
                })
            })
            .collect()
    }

    async fn counters(&self, request: &StatsRequest) -> Result<Any> {
        let monitor = self.0.monitor(&request.id)?;
        let response = told(&request.id, monitor.task.stats(patient(), request).await)?;
        metrics::of_host(response.stats.unwrap_or_default())
    }

    async fn measure(&self, request: &ResizePtyRequest) -> Result<()> {
        let monitor = self.0.monitor(&request.id)?;
        // A process that does not run yet has no terminal: its size comes with its definition.
        if !self.0.containers().process(&request.id, &request.exec_id)?.alive() {
            return Ok(());
        }
        told(&request.id, monitor.task.resize_pty(patient(), request).await).map(drop)
    }

    fn close_input(&self, request: &CloseIORequest) -> Result<()> {
        let mut containers = self.0.containers();
        let process = containers.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.input = None;
        }
        Ok(())
    }
}

#[async_trait]
impl Task for Wire {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        reply(self.status(&request).await)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        Ok(CreateTaskResponse {
            pid: reply(self.0.create(request).await)?,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        Ok(StartResponse {
            pid: reply(self.0.start(&request.id, &request.exec_id).await)?,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let (pid, exit) = reply(self.0.delete(&request.id, &request.exec_id).await)?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: exit.at,
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        Ok(PidsResponse {
            processes: reply(self.processes(&request.id))?,
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        nothing(self.0.pause(&request.id).await)
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        nothing(self.0.resume(&request.id).await)
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let what = "checkpoint and restore are not supported: a container is a machine here";
        reply(Err(Error::new(Kind::Unsupported, what)))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        nothing(self.signal(&request).await)
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        nothing(self.0.exec(request).await)
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        nothing(self.measure(&request).await)
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        nothing(self.close_input(&request))
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let monitor = reply(self.0.monitor(&request.id))?;
        reply(told(&request.id, monitor.task.update(patient(), &request).await))
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = reply(self.0.wait(&request.id, &request.exec_id).await)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: exit.at,
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = reply(self.counters(&request).await)?;
        Ok(StatsResponse {
            stats: Some(stats).into(),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let pid = self.0.containers().process(&request.id, "").map_or(0, |init| init.pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid,
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.0.leave();
        Ok(Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_words_that_clients_look_for() {
        let told = |kind| match reply::<()>(Err(Error::new(kind, "process e"))) {
            Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            told(Kind::NotFound),
            (ttrpc::Code::NOT_FOUND, "process e: not found".into())
        );
        assert_eq!(told(Kind::Io), (ttrpc::Code::UNKNOWN, "process e".into()));
        assert!(reply(Ok(())).is_ok());
    }
}
