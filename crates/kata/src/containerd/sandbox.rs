// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! containerd's Sandbox service, for pods that it leaves to the shim (`sandboxer = "shim"`). What is done is in [`super::pod`].

use std::collections::HashMap;
use std::sync::Arc;

use api::task::api::StatsRequest;
use api::task::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
    SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
    WaitSandboxRequest, WaitSandboxResponse,
};
use api::task::sandbox_async::{Sandbox, create_sandbox};
use api::task::types::platform::Platform;
use async_trait::async_trait;
use base::{Error, Kind, Result};
use protobuf::MessageField;
use ttrpc::r#async::{Service, TtrpcContext};

use super::monitor::{Monitor, patient, told};
use super::task::reply;
use super::tasks::Tasks;
use super::{metrics, now};

/// As CRI names them.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// For a ttrpc server.
pub fn services(tasks: &Arc<Tasks>) -> HashMap<String, Service> {
    create_sandbox(Arc::new(Wire(Arc::clone(tasks))))
}

struct Wire(Arc<Tasks>);

impl Wire {
    fn status(&self, id: &str) -> Result<SandboxStatusResponse> {
        self.0.look_at_pod(id, |pod| SandboxStatusResponse {
            sandbox_id: pod.id.clone(),
            pid: pod.pid,
            state: if pod.alive() { READY } else { NOT_READY }.to_owned(),
            created_at: pod.created_at.clone(),
            exited_at: pod.ended().map_or_else(MessageField::none, |exit| exit.at),
            ..SandboxStatusResponse::default()
        })
    }

    /// Of all containers together.
    async fn counters(&self, id: &str) -> Result<SandboxMetricsResponse> {
        if !self.0.look_at_pod(id, super::pod::Pod::alive)? {
            return Err(Error::new(Kind::State, format!("sandbox {id} is not running")));
        }
        let monitor = Monitor::open(&self.0.sandbox_of(id))?;
        let mut all = Vec::new();
        let others = self.0.containers().ids();
        for id in others.into_iter().chain([id.to_owned()]) {
            let request = StatsRequest {
                id: id.clone(),
                ..StatsRequest::default()
            };
            match told(&id, monitor.task.stats(patient(), &request).await) {
                Ok(response) => all.push(response.stats.unwrap_or_default()),
                // It has ended.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::State | Kind::Gone) => log::debug!("{}", e.chain()),
                Err(e) => return Err(e),
            }
        }
        let mut answer = SandboxMetricsResponse::new();
        let metric = answer.metrics.mut_or_insert_default();
        metric.timestamp = now();
        id.clone_into(&mut metric.id);
        metric.data = Some(metrics::of_host(metrics::total(&all)?)?).into();
        Ok(answer)
    }

    async fn stop(&self, request: &StopSandboxRequest) -> Result<()> {
        let stopped = self.0.stop_pod(&request.sandbox_id);
        if request.timeout_secs == 0 {
            return stopped.await;
        }
        let timeout = std::time::Duration::from_secs(request.timeout_secs.into());
        let late = || {
            let what = format!(
                "sandbox {} has not ended after {} s",
                request.sandbox_id, request.timeout_secs
            );
            Err(Error::new(Kind::Timeout, what))
        };
        tokio::time::timeout(timeout, stopped).await.unwrap_or_else(|_| late())
    }
}

#[async_trait]
impl Sandbox for Wire {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        log::debug!("{request:?}");
        reply(self.0.define_pod(&request)).map(|()| CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let (pid, created_at) = reply(self.0.start_pod(&request.sandbox_id).await)?;
        Ok(StartSandboxResponse {
            pid,
            created_at,
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        let platform = Platform {
            os: "linux".to_owned(),
            // As Go calls it.
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            ..Platform::default()
        };
        Ok(PlatformResponse {
            platform: Some(platform).into(),
            ..PlatformResponse::default()
        })
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: StopSandboxRequest) -> ttrpc::Result<StopSandboxResponse> {
        reply(self.stop(&request).await).map(|()| StopSandboxResponse::new())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> ttrpc::Result<WaitSandboxResponse> {
        let exit = reply(self.0.wait_for_pod(&request.sandbox_id).await)?;
        Ok(WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: exit.at,
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        reply(self.status(&request.sandbox_id))
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: PingRequest) -> ttrpc::Result<PingResponse> {
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.0.remove_pod().await;
        self.0.leave();
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        reply(self.counters(&request.sandbox_id).await)
    }
}
