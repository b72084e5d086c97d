// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A client of the Container Runtime Interface, as the kubelet is one. Requests and answers are JSON, by the interface's definition in
//! `proto/cri.proto`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, BufMut};
use protobuf::reflect::FileDescriptor;
use protobuf_json_mapping::PrintOptions;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::command;

/// See the module. It is for one thread.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
    interface: FileDescriptor,
}

impl Cri {
    /// Of whoever serves, or will serve, on `socket`.
    pub fn new(socket: &Path) -> Cri {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("start the runtime");
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).expect("an address");
        let channel = {
            let _inside = runtime.enter();
            endpoint.timeout(command::deadline()).connect_lazy()
        };
        Cri {
            runtime,
            channel,
            interface: interface(),
        }
    }

    /// Calls a method of the runtime service. The error is what the runtime says.
    pub fn ask(&self, method: &str, request: &Value) -> Result<Value, String> {
        let service = self.interface.services().next().expect("the definition has a service");
        let known = service.methods().find(|known| known.proto().name() == method);
        let known = known.unwrap_or_else(|| panic!("proto/cri.proto has no {method}"));
        let message = protobuf_json_mapping::parse_dyn_from_str(&known.input_type(), &request.to_string());
        let message = message.unwrap_or_else(|e| panic!("{method} {request}: {e}"));
        let bytes = message.write_to_bytes_dyn().expect("a whole message");
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = path.parse().expect("a path");
        let mut service = Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async {
            let ready = service.ready().await;
            ready.map_err(|e| Status::unavailable(e.to_string()))?;
            service.unary(Request::new(bytes), path, Bytes).await
        });
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        let answer = known
            .output_type()
            .parse_from_bytes(&answer)
            .expect("it fits the definition");
        let options = PrintOptions {
            proto_field_name: true,
            always_output_default_values: true,
            ..PrintOptions::default()
        };
        let text = protobuf_json_mapping::print_to_string_with_options(&*answer, &options);
        Ok(serde_json::from_str(&text.expect("it can be printed")).expect("JSON"))
    }

    /// As [`Cri::ask`], of what is to succeed.
    #[track_caller]
    pub fn call(&self, method: &str, request: &Value) -> Value {
        self.ask(method, request)
            .unwrap_or_else(|e| panic!("{method} {request}: {e}"))
    }
}

/// A member of an answer that holds bytes.
#[track_caller]
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("bytes are written as text");
    BASE64_STANDARD.decode(text).expect("base64")
}

/// A member of an answer that is a number. Those of 64 bits are written as text.
#[track_caller]
pub fn number(value: &Value) -> i64 {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.unwrap_or_else(|| panic!("{value} is no number"))
}

fn interface() -> FileDescriptor {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut parser = protobuf_parse::Parser::new();
    parser.pure().include(&directory).input(directory.join("cri.proto"));
    let mut files = parser.file_descriptor_set().expect("the definition is one");
    let file = files.file.pop().expect("it was parsed");
    FileDescriptor::new_dynamic(file, &[]).expect("the definition is whole")
}

/// Messages that are bytes already.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
