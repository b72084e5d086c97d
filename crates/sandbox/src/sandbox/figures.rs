// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Of which the numbers of a sandbox are made. It does not know how they are got.

use std::sync::Arc;

use metrics::page::Format;
use metrics::{Durations, Page};

use super::{Phase, Sandbox};
use crate::container::Container;
use crate::metrics::Subjects;

impl Sandbox {
    /// The sandbox's numbers, now.
    pub async fn page(&self, format: Format) -> Page {
        self.counts.page(format, self.subjects()).await
    }

    /// How long calls of the Task service took.
    pub fn calls(&self) -> &Arc<Durations> {
        &self.counts.calls
    }

    /// The machine runs.
    pub fn is_up(&self) -> bool {
        self.guest().is_ok()
    }

    fn subjects(&self) -> Subjects {
        let state = self.state();
        let mut subjects = Subjects {
            carriers: state.containers.values().flat_map(Container::carriers).collect(),
            oom_kills: state.containers.values().map(|container| container.oom_kills).sum(),
            agent_calls: state.agent_calls.clone(),
            ..Subjects::default()
        };
        for container in state.containers.values() {
            *subjects.containers.entry(container.status().to_string()).or_default() += 1;
        }
        if let Phase::Up(up) = &state.phase {
            subjects.guest = Some(up.guest.clone());
            subjects.machine = Some(up.machine.clone());
            subjects.device = up.device.clone();
            subjects.size = Some(up.extent.size());
        }
        subjects
    }
}
