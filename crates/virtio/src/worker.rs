// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A running device core: owns the core, its rings and the thread; stopping or dropping it joins.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{Activation, Device, Error, Result};

/// Token of the stop event; queues have their index, descriptors of the core's own have `OWN` set.
const STOP: u64 = u64::MAX;
const OWN: u64 = 1 << 32;

/// See the module.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<(Box<dyn Device>, Activation)>>,
}

impl Worker {
    /// Runs `device` on a thread called `name`. A core that fails is left standing: its guest sees a device that does not answer.
    pub fn spawn(name: &str, device: Box<dyn Device>, act: Activation) -> Result<Worker> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        let watch = |fd: RawFd, token: u64| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token));
        watch(stop.as_raw_fd(), STOP)?;
        for (token, queue) in (0..).zip(&act.queues) {
            if let Some(queue) = queue {
                watch(queue.kick.as_raw_fd(), token)?;
                // Chains that were offered before the start came with a kick that nobody saw.
                queue.kick.write(1)?;
            }
        }
        for (fd, token) in device.fds() {
            watch(fd, OWN | u64::from(token))?;
        }
        let label = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&label, &epoll, device, act))?;
        Ok(Worker {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops and gives the core and its rings back. `None` if the thread had panicked.
    pub fn stop(mut self) -> Option<(Box<dyn Device>, Activation)> {
        self.halt()
    }

    fn halt(&mut self) -> Option<(Box<dyn Device>, Activation)> {
        let thread = self.thread.take()?;
        // An eventfd that is full is readable as well.
        let _ = self.stop.write(1);
        thread.join().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.halt();
    }
}

fn run(name: &str, epoll: &Epoll, mut device: Box<dyn Device>, mut act: Activation) -> (Box<dyn Device>, Activation) {
    let mut events = [EpollEvent::default(); 16];
    let mut failed = false;
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                log::error!("{name}: wait for events: {e}");
                return (device, act);
            }
        };
        for event in &events[..count] {
            if event.data() == STOP {
                return (device, act);
            }
            if failed {
                // Edge: whoever kicks a dead device must not keep its thread busy.
                let _ = epoll.ctl(
                    ControlOperation::Delete,
                    source(&*device, &act, event.data()),
                    EpollEvent::default(),
                );
                continue;
            }
            if let Err(e) = serve(&mut device, &mut act, event.data()) {
                log::error!("{name}: the device stops: {e}");
                failed = true;
            }
        }
    }
}

fn serve(device: &mut Box<dyn Device>, act: &mut Activation, token: u64) -> Result<()> {
    if token & OWN != 0 {
        let token = u32::try_from(token ^ OWN).unwrap_or(u32::MAX);
        return device.event(token, act);
    }
    let index = usize::try_from(token).unwrap_or(usize::MAX);
    let Some((queue, _)) = act.queue(index) else {
        return Ok(());
    };
    match queue.kick.read() {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(e) => return Err(Error::Io(e)),
    }
    device.queue(index, act)
}

fn source(device: &dyn Device, act: &Activation, token: u64) -> RawFd {
    if token & OWN != 0 {
        let own = device.fds().into_iter().find(|(_, own)| OWN | u64::from(*own) == token);
        return own.map_or(-1, |(fd, _)| fd);
    }
    let queue = usize::try_from(token).ok().and_then(|index| act.queues.get(index));
    queue
        .and_then(Option::as_ref)
        .map_or(-1, |queue| queue.kick.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use virtio_queue::{Queue as Ring, QueueT};
    use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

    use super::*;
    use crate::queue::Served;
    use crate::{Bitmap, Call, Linger, Memory, Queue};

    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;

    /// Reports the chains that it gets; the one with head 5 it does not want.
    struct Reporter(Sender<u16>);

    impl Device for Reporter {
        fn kind(&self) -> u32 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[8]
        }
        fn features(&self) -> u64 {
            0
        }
        fn config(&self) -> &[u8] {
            &[]
        }
        fn queue(&mut self, index: usize, act: &mut Activation) -> Result<()> {
            let Some((queue, mem)) = act.queue(index) else {
                return Ok(());
            };
            queue.drain(mem, &mut Linger::default(), |chain| {
                self.0.send(chain.head_index()).unwrap();
                if chain.head_index() == 5 {
                    Served::Back
                } else {
                    Served::Used(3)
                }
            })
        }
    }

    struct Driver {
        mem: Memory,
        kick: EventFd,
        interrupt: EventFd,
        worker: Worker,
        seen: Receiver<u16>,
    }

    fn driver() -> Driver {
        let memory = GuestMemoryMmap::<Bitmap>::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let mem = Memory::new(memory);
        let mut ring = Ring::new(8).unwrap();
        ring.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        ring.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        ring.set_ready(true);
        let (kick, interrupt) = (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(0).unwrap());
        let call = Call::default();
        call.set(Some(interrupt.try_clone().unwrap()));
        let queue = Queue {
            ring,
            kick: kick.try_clone().unwrap(),
            call,
        };
        let act = Activation {
            mem: mem.clone(),
            features: 0,
            queues: vec![Some(queue)],
        };
        let (send, seen) = channel();
        Driver {
            worker: Worker::spawn("test", Box::new(Reporter(send)), act).unwrap(),
            mem,
            kick,
            interrupt,
            seen,
        }
    }

    impl Driver {
        fn offer(&self, heads: &[u16], index: u16) {
            let mem = self.mem.memory();
            for (n, head) in (0..).zip(heads) {
                mem.write_obj(*head, GuestAddress(AVAILABLE + 4 + 2 * n)).unwrap();
            }
            mem.write_obj(index, GuestAddress(AVAILABLE + 2)).unwrap();
            self.kick.write(1).unwrap();
        }

        fn used(&self) -> u16 {
            self.mem.memory().read_obj(GuestAddress(USED + 2)).unwrap()
        }
    }

    #[test]
    fn chains_are_served_interrupted_and_remembered() {
        let driver = driver();
        driver.offer(&[2, 4, 5], 3);
        let seen: Vec<u16> = (0..3).map(|_| driver.seen.recv().unwrap()).collect();
        assert_eq!(seen, [2, 4, 5]);
        assert_eq!(driver.interrupt.read().unwrap(), 1, "one interrupt for both");
        assert_eq!(driver.used(), 2);
        let (_, act) = driver.worker.stop().unwrap();
        let queue = act.queues[0].as_ref().unwrap();
        assert_eq!(queue.ring.next_avail(), 2, "what was put back comes again");
    }

    #[test]
    fn a_broken_ring_stops_the_device_and_not_the_process() {
        let driver = driver();
        // More chains than the ring has entries; a head outside of it.
        driver.offer(&[1000], 60_000);
        // A device that has stopped stays so, however often it is kicked.
        for _ in 0..100 {
            driver.kick.write(1).unwrap();
        }
        let (device, _) = driver.worker.stop().expect("its thread did not panic");
        assert_eq!(device.kind(), 0);
    }
}
