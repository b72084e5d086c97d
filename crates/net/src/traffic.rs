// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Redirection: all that comes into one interface goes out of another, by a filter of the kernel's traffic control.
//!
//! `u32` with a key that fits everything and the action `mirred`: the oldest and most widely built of the filters.

use std::io;

use netlink::{Message, Socket};

/// Fixed part of traffic control: family, padding, interface, handle, parent, info.
const FIXED: usize = 20;
const INGRESS: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;
const MIRRED_PARAMETERS: u16 = 2;
const TERMINAL: u8 = 1;
/// The packet is gone from here.
const STOLEN: u32 = 4;
/// Out of the other interface.
const EGRESS_REDIRECT: u32 = 1;

fn fixed(index: u32, handle: u32, parent: u32, info: u32) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

/// Has all that comes into interface `from` go out of `to`, in place of what was done with it before.
pub fn redirect(socket: &mut Socket, from: u32, to: u32) -> io::Result<()> {
    // Left by a machine that was killed together with its monitor.
    let _ = release(socket, from);
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    let queue = fixed(from, HANDLE, INGRESS, 0);
    socket.tell(Message::new(libc::RTM_NEWQDISC, create, &queue).with(KIND, b"ingress\0"))?;
    socket.tell(filter(from, to, create))
}

/// Ends a redirection.
pub fn release(socket: &mut Socket, from: u32) -> io::Result<()> {
    let queue = fixed(from, HANDLE, INGRESS, 0);
    let remove = Message::new(libc::RTM_DELQDISC, libc::NLM_F_ACK, &queue);
    socket.tell(remove.with(KIND, b"ingress\0"))
}

fn filter(from: u32, to: u32, flags: i32) -> Message {
    // The first filter, for every protocol (`ETH_P_ALL`, as it stands on the wire).
    let info = 1 << 16 | u32::from(3_u16.to_be());
    // One key: no bit of the first word must have a value.
    let mut selector = [0; 32];
    selector[0] = TERMINAL;
    selector[2] = 1;
    let parameters: Vec<u8> = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to]
        .iter()
        .flat_map(|field: &u32| field.to_ne_bytes())
        .collect();
    Message::new(libc::RTM_NEWTFILTER, flags, &fixed(from, 0, HANDLE, info))
        .with(KIND, b"u32\0")
        .nest(OPTIONS, |options| {
            options.with(U32_SELECTOR, &selector).nest(U32_ACTIONS, |actions| {
                actions.nest(1, |action| {
                    action
                        .with(KIND, b"mirred\0")
                        .nest(OPTIONS, |options| options.with(MIRRED_PARAMETERS, &parameters))
                })
            })
        })
}
