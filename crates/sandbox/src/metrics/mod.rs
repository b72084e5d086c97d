// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The numbers of a sandbox, and the socket at which it tells them. Whoever asks, however often and however slowly, costs the sandbox
//! some time at most: what blocks is done by a thread of its own, and a guest that does not answer is one that does not answer.

mod endpoint;
mod rpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::agent::ReadMetricsResponse;
use machine::SavedMachine;
use metrics::page::Format;
use metrics::process::{self, DEVICE, HYPERVISOR, Process, SHIM};
use metrics::{Durations, Page, family};

use crate::guest::Guest;
use crate::saved::SavedProcess;
use crate::size::Size;

pub use endpoint::{SOCKET, open};
pub use rpc::timed;

/// How long an answer of the guest holds: those who ask at once get the same.
const HOLDS: Duration = Duration::from_millis(500);

/// What the sandbox counts itself.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls of the Task service.
    pub calls: Arc<Durations>,
    scrapes: AtomicU64,
    /// What the guest said, or that it did not, and when.
    heard: tokio::sync::Mutex<Option<(Instant, Option<Arc<ReadMetricsResponse>>)>>,
}

/// Whom the numbers are about.
#[derive(Debug, Default)]
pub struct Subjects {
    /// If the machine is up.
    pub guest: Option<Guest>,
    /// The hypervisor, if it is up.
    pub machine: Option<SavedMachine>,
    /// The device process, if it is up.
    pub device: Option<SavedProcess>,
    /// How large the machine is.
    pub size: Option<Size>,
    /// Host processes that carry the containers' processes.
    pub carriers: Vec<u32>,
    /// How many containers are in which state.
    pub containers: BTreeMap<String, usize>,
    /// Of all containers.
    pub oom_kills: u64,
    /// Calls of the agent, also of one that has ended.
    pub agent_calls: Option<Arc<Durations>>,
}

impl Counts {
    /// All of it, now.
    pub async fn page(&self, format: Format, mut subjects: Subjects) -> Page {
        let mut page = Page::new(format);
        let scrapes = self.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
        page.set(&family::SHIM_SCRAPES, &[], scrapes as f64);
        let heard = match subjects.guest.take() {
            Some(guest) => self.listen(&guest).await,
            None => None,
        };
        page.set(&family::GUEST_UP, &[], f64::from(u8::from(heard.is_some())));
        if let Some(heard) = heard {
            metrics::guest::write(&heard, &mut page);
        }
        self.calls.write(&family::SHIM_RPC, &mut page);
        if let Some(calls) = &subjects.agent_calls {
            calls.write(&family::AGENT_RPC, &mut page);
        }
        for (status, count) in &subjects.containers {
            page.set(&family::SHIM_CONTAINERS, &[status], *count as f64);
        }
        page.set(&family::SHIM_OOM_KILLS, &[], subjects.oom_kills as f64);
        // The kernel counts pages for some of it.
        let looked = tokio::task::spawn_blocking(move || {
            look(&subjects, &mut page);
            page
        });
        looked.await.unwrap_or_else(|_| Page::new(format))
    }

    async fn listen(&self, guest: &Guest) -> Option<Arc<ReadMetricsResponse>> {
        let mut heard = self.heard.lock().await;
        if let Some((when, answer)) = &*heard
            && when.elapsed() < HOLDS
        {
            return answer.clone();
        }
        let answer = match guest.metrics().await {
            Ok(answer) => Some(Arc::new(answer)),
            Err(e) => {
                log::debug!("metrics of the guest: {}", e.chain());
                None
            }
        };
        *heard = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// At the processes of the host.
fn look(subjects: &Subjects, page: &mut Page) {
    if let Some(own) = Process::own() {
        SHIM.write(&own, page);
        page.set(&family::SHIM_CPU, &[], own.cpu_seconds());
        page.put(&family::SHIM_OPEN_FDS, own.fds);
        page.put(&family::SHIM_MAX_FDS, process::own_max_fds());
        page.put(&family::SHIM_RESIDENT, Some(own.resident()));
        page.put(&family::SHIM_VIRTUAL, Some(own.stat.virtual_bytes));
        if let Some(start) = own.start_time() {
            page.set(&family::SHIM_START_TIME, &[], start);
        }
        process::netdev(&family::SHIM_NETDEV, &own.interfaces(), page);
    }
    let machine = subjects.machine.as_ref();
    let hypervisor = machine.and_then(|machine| Process::read(machine.pid, Some(machine.start_time)));
    page.set(&family::HYPERVISOR_UP, &[], f64::from(u8::from(hypervisor.is_some())));
    if let Some(machine) = machine {
        page.set(&family::HYPERVISOR_INFO, &[&machine.backend], 1.0);
    }
    if let Some(size) = subjects.size {
        page.set(&family::HYPERVISOR_VCPUS, &[], f64::from(size.vcpus));
        page.set(
            &family::HYPERVISOR_MEMORY,
            &[],
            size.memory_mib.saturating_mul(1 << 20) as f64,
        );
    }
    if let Some(hypervisor) = hypervisor {
        HYPERVISOR.write(&hypervisor, page);
        process::netdev(&family::HYPERVISOR_NETDEV, &hypervisor.interfaces(), page);
    }
    let device = subjects.device.as_ref();
    let device = device.and_then(|device| Process::read(device.pid, Some(device.start_time)));
    page.set(&family::DEVICE_UP, &[], f64::from(u8::from(device.is_some())));
    if let Some(device) = device {
        DEVICE.write(&device, page);
    }
    carriers(&subjects.carriers, page);
}

fn carriers(pids: &[u32], page: &mut Page) {
    let pids = pids.iter().filter_map(|pid| i32::try_from(*pid).ok());
    let all: Vec<Process> = pids.filter_map(|pid| Process::read(pid, None)).collect();
    let sum = |of: fn(&Process) -> u64| all.iter().map(of).fold(0, u64::saturating_add);
    page.put(&family::CARRIERS, Some(all.len() as u64));
    let seconds = all.iter().map(Process::cpu_seconds).sum();
    page.set(&family::CARRIER_CPU, &[], seconds);
    page.put(&family::CARRIER_RESIDENT, Some(sum(Process::resident)));
    page.put(&family::CARRIER_PSS, Some(sum(|process| process.pss().unwrap_or(0))));
    page.put(&family::CARRIER_FDS, Some(sum(|process| process.fds.unwrap_or(0))));
    page.put(&family::CARRIER_THREADS, Some(sum(|process| process.stat.threads)));
}
