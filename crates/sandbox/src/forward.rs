// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Services on the guest's loopback interface, for whoever asks for them on that of the network namespace which the engine prepared:
//! connections are carried over vsock to the agent. Nobody here reads what is in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::port::FORWARD;
use base::{Context, Result};
use net::Loopback;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::device::HYBRID;

/// Connections at a time; further ones wait.
const MOST: usize = 256;

/// Carries connections until it is dropped.
#[derive(Debug)]
pub struct Forward {
    task: JoinHandle<()>,
    _loopback: Loopback,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forward {
    /// Into the machine of the sandbox in `dir`, from the network namespace that we are in.
    pub fn start(dir: &Path) -> Result<Forward> {
        let what = || "watch for connections to 127.0.0.1".to_owned();
        let loopback = Loopback::catch()?;
        let listener = loopback.listener().try_clone().attempt(what)?;
        let listener = TcpListener::from_std(listener).attempt(what)?;
        Ok(Forward {
            task: tokio::spawn(serve(listener, dir.join(HYBRID))),
            _loopback: loopback,
        })
    }
}

async fn serve(listener: TcpListener, machine: PathBuf) {
    let (places, machine) = (Arc::new(Semaphore::new(MOST)), Arc::new(machine));
    // Ends with an error of the listener, which none but a lack of descriptors causes.
    while let (Ok(place), Ok((mut client, _))) = (Arc::clone(&places).acquire_owned().await, listener.accept().await) {
        let machine = Arc::clone(&machine);
        tokio::spawn(async move {
            match connect(&client, &machine).await {
                Ok(mut guest) => drop(copy_bidirectional(&mut client, &mut guest).await),
                Err(e) => {
                    log::debug!("a connection to 127.0.0.1: {}", e.chain());
                    // As near to "connection refused" as one that was accepted can be.
                    let _ = client.set_zero_linger();
                }
            }
            drop(place);
        });
    }
}

/// To the same port there, when the service has accepted.
async fn connect(client: &TcpStream, machine: &Path) -> Result<UnixStream> {
    let port = client.local_addr().attempt(|| "look at a connection".into())?.port();
    let mut guest = machine::hybrid::dial(machine, FORWARD).await?;
    let asked: io::Result<u8> = async {
        guest.write_all(&port.to_be_bytes()).await?;
        guest.read_u8().await
    }
    .await;
    asked.attempt(|| format!("reach port {port} of the guest's loopback interface"))?;
    Ok(guest)
}
