// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata metrics`: what the machine of a container counts.

use base::Kind;

use super::{Failure, Here};
use crate::node;

/// Of one of `kata run`, by its name or id; or of any other of this node, by its id or its sandbox's.
pub fn metrics(here: &Here, container: &str) -> Result<u8, Failure> {
    match here.records.known(container) {
        Ok((_, record)) => node::show(&here.root, &record.id)?,
        Err(e) if e.kind() == Kind::NotFound => node::show_any(&here.root, container)?,
        Err(e) => return Err(e.into()),
    }
    Ok(0)
}
