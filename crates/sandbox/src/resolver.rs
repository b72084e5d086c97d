// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Name servers that an engine runs on the loopback interface of the container's network namespace, as Docker does on its own
//! networks (127.0.0.11): a guest has a loopback interface of its own, so its questions are carried over vsock. We live in that
//! namespace and copy bytes; nobody here reads them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::port::RESOLVER;
use base::{Context, Result};
use oci::Bundle;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::device::HYBRID;

/// Where name servers listen.
const PORT: u16 = 53;
/// Questions at a time; further ones wait.
const MOST: usize = 64;
/// After this, whoever asked has given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Resolver {
    /// The sandbox's.
    dir: PathBuf,
    /// The container's `/etc/resolv.conf`, on the host.
    file: Option<PathBuf>,
    relay: Option<Relay>,
}

impl Resolver {
    /// For the machine of the sandbox in `dir`, which `bundle` begins.
    pub fn new(dir: &Path, bundle: &Bundle) -> Resolver {
        let mounts = bundle.spec().mounts().iter().flatten();
        let mut mounts = mounts.filter(|mount| mount.destination() == Path::new("/etc/resolv.conf"));
        Resolver {
            dir: dir.to_owned(),
            file: mounts.next().and_then(|mount| mount.source().clone()),
            relay: None,
        }
    }

    /// The sandbox's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name server that the file names now, if its questions must be carried; they are, when this returns. Docker writes the
    /// file anew when it connects networks.
    pub fn look(&mut self) -> Result<Option<IpAddr>> {
        let text = self.file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let server = text.as_deref().and_then(loopback);
        if self.relay.as_ref().map(|relay| relay.server) != server {
            self.relay = None;
            self.relay = server.map(|server| Relay::start(&self.dir, server)).transpose()?;
        }
        Ok(server)
    }
}

/// The first name server, if it listens on the loopback interface. At 127.0.0.1 there are the guest's own services: see
/// [`crate::forward`].
fn loopback(text: &str) -> Option<IpAddr> {
    let first = text.lines().find_map(|line| line.strip_prefix("nameserver"))?;
    let address: IpAddr = first.trim().parse().ok()?;
    (address.is_loopback() && address != Ipv4Addr::LOCALHOST).then_some(address)
}

/// Carries questions until it is dropped.
#[derive(Debug)]
struct Relay {
    server: IpAddr,
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(e) = fs::remove_file(&self.socket) {
            log::debug!("remove {}: {e}", self.socket.display());
        }
    }
}

impl Relay {
    fn start(dir: &Path, server: IpAddr) -> Result<Relay> {
        let socket = dir.join(format!("{HYBRID}_{RESOLVER}"));
        let listener = base::socket::listen(&socket)?;
        listener.set_nonblocking(true).attempt(|| "unblock a listener".into())?;
        let listener = UnixListener::from_std(listener).attempt(|| "watch a listener".into())?;
        Ok(Relay {
            server,
            socket,
            task: tokio::spawn(serve(listener, SocketAddr::new(server, PORT))),
        })
    }
}

async fn serve(listener: UnixListener, server: SocketAddr) {
    let places = Arc::new(Semaphore::new(MOST));
    // Ends with an error of the listener, which none but a lack of descriptors causes.
    while let (Ok(place), Ok((guest, _))) = (Arc::clone(&places).acquire_owned().await, listener.accept().await) {
        tokio::spawn(async move {
            let carried = tokio::time::timeout(PATIENCE, carry(guest, server)).await;
            if let Ok(Err(e)) = carried {
                log::debug!("a question to the name server at {server}: {e}");
            }
            drop(place);
        });
    }
}

async fn carry(mut guest: UnixStream, server: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut guest, &mut server).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_name_server_counts_and_only_on_loopback() {
        for (text, server) in [
            ("search a\nnameserver 127.0.0.11\noptions ndots:0\n", Some("127.0.0.11")),
            ("nameserver ::1", Some("::1")),
            ("nameserver 10.88.0.1\nnameserver 127.0.0.1\n", None),
            ("nameserver 127.0.0.1\n", None),
            ("# nameserver 127.0.0.11\n", None),
            ("nameserver nonsense\n", None),
            ("", None),
        ] {
            assert_eq!(loopback(text), server.map(|ip| ip.parse().unwrap()), "{text:?}");
        }
    }
}
