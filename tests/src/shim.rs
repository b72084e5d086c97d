// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The Sandbox service of a pod's shim, called as containerd calls it.

use std::fs;
use std::path::{Path, PathBuf};

use api::task::Client;
use api::task::sandbox_sync::SandboxClient;

use crate::World;

/// How long a call may take, in nanoseconds.
const PATIENCE: i64 = 60_000_000_000;

/// The directory that the pod `id` of a node of `world` has from containerd, where its shim says where it listens.
pub fn bundle(world: &World, id: &str) -> PathBuf {
    let states = fs::read_dir(world.dir().join("engine/state")).expect("containerd has a state");
    let mut bundles = states.flatten().map(|entry| entry.path().join("k8s.io").join(id));
    let found = bundles.find(|bundle| bundle.join("address").exists());
    found.unwrap_or_else(|| panic!("no shim has told where it listens for {id}"))
}

/// A client of the shim whose bundle it is.
pub fn client(bundle: &Path) -> SandboxClient {
    let address = fs::read_to_string(bundle.join("address")).expect("read the address");
    let client = Client::connect(address.trim()).expect("connect to the shim");
    SandboxClient::new(client)
}

/// The context of one call.
pub fn call() -> ttrpc::context::Context {
    ttrpc::context::with_timeout(PATIENCE)
}

/// What a call is refused with.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (ttrpc::Code, String) {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("it is to be refused: {other:?}"),
    }
}
