// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Block devices that come and go while a machine runs: all that are plugged at once are functions of one card, in a port of their own.
//!
//! The port is without power while it is empty; the guest switches it on to find the card, and off to let it go: only then is it
//! unplugged. A guest that does not keeps the devices until its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result};
use nix::sys::stat::{SFlag, fstat};
use serde_json::json;

use super::command::{FUNCTIONS, disk_port};
use super::concat;
use super::qmp::Qmp;
use crate::{DISK_CARDS, DiskSpec};

/// How long QEMU may take to let go of a device that the guest has switched off.
const RELEASE: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_millis(5);

/// The cards, by port.
#[derive(Debug, Default)]
pub struct Cards {
    ports: [Vec<Lent>; DISK_CARDS],
    /// Number of the next set of descriptors.
    lent: u64,
}

/// What QEMU has been given for one device.
#[derive(Debug)]
struct Lent {
    sets: Vec<u64>,
    serial: String,
}

/// Its name for QEMU.
fn device(serial: &str) -> String {
    format!("disk-{serial}")
}

impl Cards {
    /// Plugs `disks` as one card. Errors: `Unsupported` when there are too many, or no port is free; nothing is plugged then.
    pub async fn plug(&mut self, qmp: &mut Qmp, disks: &[DiskSpec]) -> Result<()> {
        if disks.is_empty() {
            return Ok(());
        }
        if disks.len() > FUNCTIONS {
            let what = format!(
                "plug {} block devices for one container: {FUNCTIONS} are possible",
                disks.len()
            );
            return Err(Error::new(Kind::Unsupported, what));
        }
        let Some(port) = self.ports.iter().position(Vec::is_empty) else {
            let what =
                format!("{DISK_CARDS} containers of this machine have block devices: there is no place for more");
            return Err(Error::new(Kind::Unsupported, what));
        };
        let mut lent = Vec::new();
        let plugged = self.insert(qmp, port, disks, &mut lent).await;
        if plugged.is_err() {
            for lent in lent.iter().rev() {
                take_back(qmp, lent).await;
            }
        } else if let Some(place) = self.ports.get_mut(port) {
            *place = lent;
        }
        plugged
    }

    async fn insert(&mut self, qmp: &mut Qmp, port: usize, disks: &[DiskSpec], lent: &mut Vec<Lent>) -> Result<()> {
        // The guest sees the card when its function 0 is there: it comes last.
        for (function, disk) in disks.iter().enumerate().rev() {
            let serial = &disk.serial;
            let what = || format!("give the machine block device {serial}");
            lent.push(Lent {
                sets: Vec::new(),
                serial: serial.clone(),
            });
            let mut all = disk.parts.iter().map(|part| part.as_fd()).collect::<Vec<_>>();
            let first = self.lent + 1;
            let list = (all.len() > 1)
                .then(|| concat::list(&all, first))
                .transpose()
                .attempt(what)?;
            all.extend(list.as_ref().map(AsFd::as_fd));
            for part in all {
                self.lent += 1;
                if let Some(lent) = lent.last_mut() {
                    lent.sets.push(self.lent);
                }
                qmp.lend(self.lent, part).await.attempt(what)?;
            }
            let file = format!("/dev/fdset/{}", self.lent);
            let node = match (&disk.parts[..], list) {
                (_, Some(_)) => concat::node(serial, &file),
                // Nothing keeps two containers from one device, as on the host. The host's page cache is the only one.
                ([device, ..], _) => json!({
                    "driver": driver(device).attempt(what)?, "node-name": serial, "filename": file,
                    "read-only": disk.read_only, "locking": "off", "discard": "unmap",
                }),
                ([], _) => return Err(Error::new(Kind::Bug, what()).because("nothing is behind it")),
            };
            qmp.execute("blockdev-add", node).await.attempt(what)?;
            let plug = json!({
                "driver": "virtio-blk-pci", "id": device(serial), "drive": serial, "serial": serial,
                "share-rw": !disk.read_only,
                "bus": disk_port(port), "addr": format!("0.{function}"), "multifunction": true,
            });
            qmp.execute("device_add", plug).await.attempt(what)?;
        }
        Ok(())
    }

    /// Takes back the card that has these devices, which the guest has switched off. Errors: `State` when it has not.
    pub async fn unplug(&mut self, qmp: &mut Qmp, serials: &[String]) -> Result<()> {
        let has = |port: &&mut Vec<Lent>| port.iter().any(|lent| serials.contains(&lent.serial));
        let port = self.ports.iter_mut().find(has);
        let Some(port) = port else { return Ok(()) };
        let begin = Instant::now();
        for Lent { serial, .. } in port.iter() {
            loop {
                // It is gone when it has no power any more.
                if let Err(e) = qmp.execute("device_del", json!({ "id": device(serial) })).await {
                    log::debug!("{}", e.chain());
                }
                match qmp.execute("blockdev-del", json!({ "node-name": serial })).await {
                    Ok(_) => break,
                    Err(e) if e.kind() == Kind::State && begin.elapsed() < RELEASE => {
                        tokio::time::sleep(REST).await;
                    }
                    Err(e) => return Err(e).attempt(|| format!("take block device {serial} from the machine")),
                }
            }
        }
        for set in port.drain(..).flat_map(|lent| lent.sets) {
            // Closed, as nothing uses it any more.
            qmp.execute("remove-fd", json!({ "fdset-id": set })).await?;
        }
        Ok(())
    }
}

/// How QEMU reaches what is behind a disk.
fn driver(device: &OwnedFd) -> nix::Result<&'static str> {
    let found = fstat(device)?;
    let is_file = SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT) == SFlag::S_IFREG;
    Ok(if is_file { "file" } else { "host_device" })
}

/// After a failure, of which the first error tells.
async fn take_back(qmp: &mut Qmp, lent: &Lent) {
    let sets = lent.sets.iter().map(|set| ("remove-fd", json!({ "fdset-id": set })));
    let device = [
        ("device_del", json!({ "id": device(&lent.serial) })),
        ("blockdev-del", json!({ "node-name": lent.serial })),
    ];
    for (command, arguments) in device.into_iter().chain(sets) {
        if let Err(e) = qmp.execute(command, arguments).await {
            log::debug!("{}", e.chain());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::sync::Arc;
    use std::thread;

    use serde_json::Value;
    use tokio::net::UnixStream;

    use super::*;

    /// Plays QEMU: greets, takes every command but `refused`, and tells which came, each with what it is about.
    fn server(stream: StdUnixStream, refused: &str) -> Vec<String> {
        let mut stream = BufReader::new(stream);
        let mut came = Vec::new();
        stream.get_mut().write_all(b"{\"QMP\": {}}\n").unwrap();
        let mut line = String::new();
        while stream.read_line(&mut line).unwrap() > 0 {
            // A descriptor comes with an empty line.
            if let Ok(command) = serde_json::from_str::<Value>(&line) {
                let name = command["execute"].as_str().unwrap().to_owned();
                let arguments = &command["arguments"];
                let about = ["node-name", "addr", "id", "fdset-id"].map(|key| &arguments[key]);
                let about = about.iter().find(|value| !value.is_null()).map(ToString::to_string);
                let told = format!("{name} {}", about.unwrap_or_default().replace('"', ""));
                let answer = if told == refused {
                    json!({ "error": { "desc": "not now" }, "id": command["id"] })
                } else {
                    json!({ "return": {}, "id": command["id"] })
                };
                came.push(told);
                stream.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
            line.clear();
        }
        came.split_off(1)
    }

    fn disk(serial: &str) -> DiskSpec {
        DiskSpec {
            serial: serial.into(),
            parts: vec![Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()))],
            read_only: true,
        }
    }

    async fn play(refused: &str, act: impl AsyncFnOnce(&mut Cards, &mut Qmp)) -> Vec<String> {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let refused = refused.to_owned();
        let played = thread::spawn(move || server(theirs, &refused));
        let mut qmp = Qmp::greet(UnixStream::from_std(ours).unwrap(), RELEASE).await.unwrap();
        act(&mut Cards::default(), &mut qmp).await;
        drop(qmp);
        played.join().unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_card_comes_with_its_first_function_last_and_goes() {
        let came = play("", async |cards: &mut Cards, qmp: &mut Qmp| {
            cards.plug(qmp, &[disk("a"), disk("b")]).await.unwrap();
            cards.unplug(qmp, &["a".into()]).await.unwrap();
            cards.unplug(qmp, &["a".into()]).await.unwrap();
        });
        let expected = "add-fd 1, blockdev-add b, device_add 0.1, add-fd 2, blockdev-add a, device_add 0.0, device_del disk-b, \
                        blockdev-del b, device_del disk-a, blockdev-del a, remove-fd 1, remove-fd 2";
        assert_eq!(came.await.join(", "), expected);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn several_files_are_one_device() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5000).unwrap();
        let part = Arc::new(OwnedFd::from(file));
        let several = DiskSpec {
            parts: vec![Arc::clone(&part), part],
            ..disk("a")
        };
        let came = play("", async |cards: &mut Cards, qmp: &mut Qmp| {
            cards.plug(qmp, &[several.clone(), disk("b")]).await.unwrap();
            cards.unplug(qmp, &["a".into()]).await.unwrap();
        });
        let expected = "add-fd 1, blockdev-add b, device_add 0.1, add-fd 2, add-fd 3, add-fd 4, blockdev-add a, device_add 0.0, \
                        device_del disk-b, blockdev-del b, device_del disk-a, blockdev-del a, remove-fd 1, remove-fd 2, remove-fd 3, \
                        remove-fd 4";
        assert_eq!(came.await.join(", "), expected);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_refused_leaves_nothing() {
        let came = play("device_add 0.0", async |cards: &mut Cards, qmp: &mut Qmp| {
            let error = cards.plug(qmp, &[disk("a"), disk("b")]).await.unwrap_err();
            let words = "give the machine block device a: QEMU command device_add: not now";
            assert_eq!((error.kind(), error.chain().as_str()), (Kind::State, words));
            assert!(cards.ports.iter().all(Vec::is_empty));
        });
        let came = came.await;
        let undone = "device_del disk-a, blockdev-del a, remove-fd 2, device_del disk-b, blockdev-del b, remove-fd 1";
        assert_eq!(came[6..].join(", "), undone);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn there_are_no_more_than_have_a_place() {
        let came = play("", async |cards: &mut Cards, qmp: &mut Qmp| {
            let many: Vec<DiskSpec> = (0..=FUNCTIONS).map(|n| disk(&n.to_string())).collect();
            assert_eq!(cards.plug(qmp, &many).await.unwrap_err().kind(), Kind::Unsupported);
            for serial in ["a", "b"] {
                cards.plug(qmp, &[disk(serial)]).await.unwrap();
            }
            assert_eq!(
                cards.plug(qmp, &[disk("c")]).await.unwrap_err().kind(),
                Kind::Unsupported
            );
            cards.unplug(qmp, &["b".into()]).await.unwrap();
            cards.plug(qmp, &[disk("c")]).await.unwrap();
        });
        assert_eq!(
            came.await.iter().filter(|told| told.starts_with("device_add")).count(),
            3
        );
    }
}
