// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! containerd's Sandbox service, which containerd 2 uses for `sandboxer = "shim"` only: pods without a container of their own. Here a
//! pod begins with a container, as with containerd's default (`podsandbox`): who asks for something else is told so.

use std::collections::HashMap;
use std::sync::Arc;

use api::task::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, ShutdownSandboxRequest,
    ShutdownSandboxResponse,
};
use api::task::sandbox_async::{Sandbox, create_sandbox};
use async_trait::async_trait;
use base::{Error, Kind};
use ttrpc::r#async::{Service, TtrpcContext};

use super::tasks::Tasks;

/// For a ttrpc server.
pub fn services(tasks: &Arc<Tasks>) -> HashMap<String, Service> {
    create_sandbox(Arc::new(Refusal(Arc::clone(tasks))))
}

/// Calls that it does not have are answered as not implemented.
struct Refusal(Arc<Tasks>);

#[async_trait]
impl Sandbox for Refusal {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let what = format!(
            "create sandbox {} without a container: sandboxer = \"podsandbox\" (containerd's default) is supported, \"shim\" is not",
            request.sandbox_id
        );
        Err(api::kind::reply(&Error::new(Kind::Unsupported, what)))
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: PingRequest) -> ttrpc::Result<PingResponse> {
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.0.leave();
        Ok(ShutdownSandboxResponse::new())
    }
}
