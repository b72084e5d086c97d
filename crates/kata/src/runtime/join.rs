// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which sandbox a new container is to live in: one of its own, or one that is there. Its annotations say so, or its network namespace:
//! two machines cannot share one.

use std::path::{Path, PathBuf};

use base::{Error, Kind, Result};
use oci::Bundle;
use oci::pod::Part;

use super::Globals;
use super::container::Container;

/// The sandbox, by its directory; none: a new one. Errors: `Unsupported` for the host's network, and for a sandbox below another root.
pub fn sandbox(globals: &Globals, bundle: &Bundle) -> Result<Option<PathBuf>> {
    let place = net::Place::of(bundle.spec())?;
    // All containers of a machine have its network: one that is to have another cannot join.
    if !matches!(place, net::Place::Prepared(_)) {
        return Ok(None);
    }
    if let Some(Part::Member(id)) = bundle.part()?
        && let Ok(container) = Container::find(&globals.root, &id)
        && container.link().is_ok()
    {
        return Ok(Some(container.sandbox()));
    }
    let Some(dir) = place.holder()? else {
        return Ok(None);
    };
    if !same(dir.parent().unwrap_or(&dir), &globals.root) {
        let what = format!("join the sandbox {}", dir.display());
        let why = format!(
            "its network namespace is asked for, but it is not below --root {}: containers of one sandbox belong to one engine",
            globals.root.display()
        );
        return Err(Error::new(Kind::Unsupported, what).because(why));
    }
    Ok(Some(dir))
}

fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}
