// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Numbers about a sandbox, in Prometheus' text format: which families there are ([`family`]), how a page of them is written
//! ([`page`]) and read ([`text`]), and where the numbers come from: the kernel's files ([`proc`], [`process`]) and the guest's
//! answers ([`guest`]), which are judged before a single byte of them is written anywhere.
//!
//! It knows no sandbox: who is to be looked at is told.

pub mod durations;
pub mod family;
pub mod guest;
pub mod http;
mod items;
pub mod page;
pub mod proc;
pub mod process;
pub mod text;

pub use durations::Durations;
pub use family::Family;
pub use page::Page;
