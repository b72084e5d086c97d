// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How an error's kind and chain cross a ttrpc connection: a status code plus one line of text.

use base::{Error, Kind};
use ttrpc::{Code, Status};

const TABLE: [(Kind, Code); 11] = [
    (Kind::NotFound, Code::NOT_FOUND),
    (Kind::Exists, Code::ALREADY_EXISTS),
    (Kind::Invalid, Code::INVALID_ARGUMENT),
    (Kind::State, Code::FAILED_PRECONDITION),
    (Kind::Unsupported, Code::UNIMPLEMENTED),
    (Kind::Timeout, Code::DEADLINE_EXCEEDED),
    (Kind::Gone, Code::UNAVAILABLE),
    (Kind::Denied, Code::PERMISSION_DENIED),
    (Kind::Guest, Code::ABORTED),
    (Kind::Io, Code::UNKNOWN),
    (Kind::Bug, Code::INTERNAL),
];

/// The status that carries `error` (kind and whole chain) to the other side.
pub fn status(error: &Error) -> Status {
    let code = TABLE.iter().find(|(kind, _)| *kind == error.kind());
    let mut status = Status::new();
    status.set_code(code.map_or(Code::UNKNOWN, |(_, code)| *code));
    status.set_message(error.chain());
    status
}

/// As [`status`], ready to be returned by a service method.
pub fn reply(error: &Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(status(error))
}

/// The error that a call to the other side gave, with its kind; `what` says what was tried on which object.
pub fn error(what: impl Into<String>, from: ttrpc::Error) -> Error {
    match from {
        ttrpc::Error::RpcStatus(status) => {
            let kind = TABLE.iter().find(|(_, code)| *code == status.code());
            let kind = kind.map_or(Kind::Io, |(kind, _)| *kind);
            Error::new(kind, what).because(Error::new(kind, status.message()))
        }
        other => Error::new(Kind::Gone, what).because(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_wire() {
        for (kind, _) in TABLE {
            let sent = Error::new(kind, "start c1").because(Error::new(Kind::Io, "open /x"));
            let got = error("agent", reply(&sent));
            assert_eq!(got.kind(), kind);
            assert_eq!(got.chain(), "agent: start c1: open /x");
        }
    }
}
