// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Unix sockets below directories of any depth: `sun_path` has 108 bytes, an engine's root directory plus a
//! container id often more, so the directory is reached through a descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::{Context, Result};

/// A short path to a socket, valid while it lives, in this process only.
#[derive(Debug)]
pub struct Short {
    path: PathBuf,
    _dir: File,
}

impl Short {
    /// For the socket `path`, whose directory must exist.
    pub fn to(path: &Path) -> Result<Short> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let dir = File::open(dir).attempt(|| format!("open directory {}", dir.display()))?;
        let name = path.file_name().unwrap_or_default();
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        Ok(Short { path, _dir: dir })
    }

    /// The path to bind or connect.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Binds and listens. Errors: `Io` when the name is taken.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let short = Short::to(path)?;
    UnixListener::bind(short.path()).attempt(|| format!("listen on {}", path.display()))
}

/// Connects. Errors: `NotFound` without the socket, `Io` when nobody listens.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let short = Short::to(path)?;
    UnixStream::connect(short.path()).attempt(|| format!("connect to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_directory_can_hold_a_socket() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("s.sock");
        let listener = listen(&path).unwrap();
        let _client = connect(&path).unwrap();
        listener.accept().unwrap();
        drop(listener);
        assert_eq!(connect(&dir.join("none")).unwrap_err().kind(), crate::Kind::NotFound);
    }
}
