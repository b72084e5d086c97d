// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The port of the standard streams: who dials says which stream it wants, and gets it. It does not look at what flows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::stream::{Hello, MAX_ID, put_answer};
use base::{Context, Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_vsock::VsockListener;

use crate::containers::Containers;
use crate::relay::relay;
use crate::stdio::End;

/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the port.
#[derive(Debug)]
pub struct Streams {
    containers: Arc<Containers>,
    /// How many connections still bring output to the host.
    bringing: watch::Sender<usize>,
}

impl Streams {
    /// Of these containers' processes.
    pub fn new(containers: Arc<Containers>) -> Streams {
        Streams {
            containers,
            bringing: watch::channel(0).0,
        }
    }

    /// Takes callers for ever.
    pub async fn serve(self: Arc<Streams>, listener: VsockListener) -> ! {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    tokio::spawn(Arc::clone(&self).one(connection));
                }
                Err(e) => {
                    log::warn!("accept a stream: {e}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Comes back when all output has been sent.
    pub async fn brought(&self) {
        let _ = self.bringing.subscribe().wait_for(|count| *count == 0).await;
    }

    async fn one(self: Arc<Streams>, mut connection: impl AsyncRead + AsyncWrite + Unpin) {
        match self.open(&mut connection).await {
            Ok((hello, end)) => {
                let _bringing = (!matches!(end, End::Input(_))).then(|| Bringing::new(&self.bringing));
                if let Err(e) = relay(connection, end).await {
                    let Hello { id, exec_id, fd } = hello;
                    log::debug!("stream {fd} of {id}/{exec_id} broke: {e}");
                }
            }
            Err(e) => log::debug!("{}", e.chain()),
        }
    }

    async fn open(&self, connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(Hello, End)> {
        let asked = "read which stream is wanted";
        let hello = timeout(PATIENCE, receive(connection)).await;
        let hello = hello
            .map_err(|_| Error::new(Kind::Timeout, asked))?
            .attempt(|| asked.into())?;
        let claimed = self.claim(&hello);
        let mut answer = Vec::new();
        let refusal = claimed.as_ref().err().map(Error::chain);
        put_answer(&mut answer, refusal.as_deref().map_or(Ok(()), Err)).attempt(|| "write the answer".into())?;
        connection
            .write_all(&answer)
            .await
            .attempt(|| "send the answer".into())?;
        Ok((hello, claimed?))
    }

    fn claim(&self, hello: &Hello) -> Result<End> {
        self.containers.get(&hello.id)?.process(&hello.exec_id)?.claim(hello.fd)
    }
}

/// Counts a connection as long as it lives.
#[derive(Debug)]
struct Bringing(watch::Sender<usize>);

impl Bringing {
    fn new(count: &watch::Sender<usize>) -> Bringing {
        count.send_modify(|count| *count += 1);
        Bringing(count.clone())
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Reads one frame and not a byte more: what follows belongs to the stream.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    // Magic, stream, length of the container's id.
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await?;
    // The id with the length of the next, then that.
    for more in [2, 0] {
        let &[.., low, high] = frame.as_slice() else { break };
        let length = usize::from(u16::from_le_bytes([low, high]));
        if length > MAX_ID {
            break;
        }
        let start = frame.len();
        frame.resize(start + length + more, 0);
        from.read_exact(&mut frame[start..]).await?;
    }
    Hello::decode(&mut frame.as_slice())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use crate::events::Events;
    use crate::reaper::Reaper;

    use super::*;

    fn streams() -> Arc<Streams> {
        let containers = Containers::new(Arc::<Reaper>::default(), Arc::<Events>::default());
        Arc::new(Streams::new(Arc::new(containers)))
    }

    fn hello() -> Hello {
        Hello {
            id: "c1".into(),
            exec_id: "e1".into(),
            fd: 1,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_frame_is_read_to_its_last_byte_and_no_further() {
        for exec_id in ["", "e1"] {
            let sent = Hello {
                exec_id: exec_id.into(),
                ..hello()
            };
            let mut bytes = sent.encode().unwrap();
            bytes.extend_from_slice(b"data");
            let mut rest = bytes.as_slice();
            assert_eq!(receive(&mut rest).await.unwrap(), sent);
            assert_eq!(rest, b"data");
        }
        for bad in [
            &b"KIO2\0\0\0\0\0"[..],
            b"KIO1\0\xff\xff",
            b"KIO1\0\x01\0c\xff\xff",
            b"KIO",
        ] {
            assert!(receive(&mut &*bad).await.is_err());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn unknown_streams_are_refused_with_the_reason() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        host.write_all(&hello().encode().unwrap()).await.unwrap();
        streams().one(ours).await;
        let mut answer = Vec::new();
        host.read_to_end(&mut answer).await.unwrap();
        let answer = api::stream::answer(&mut answer.as_slice()).unwrap();
        assert_eq!(answer.unwrap_err(), "container c1 does not exist");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_silent_caller_is_let_go() {
        let (mut ours, _host) = UnixStream::pair().unwrap();
        let error = streams().open(&mut ours).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_that_is_on_its_way_is_waited_for() {
        let streams = streams();
        streams.brought().await;
        let one = Bringing::new(&streams.bringing);
        assert!(timeout(Duration::from_millis(10), streams.brought()).await.is_err());
        drop(one);
        streams.brought().await;
    }
}
