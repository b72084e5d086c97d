// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a guest says of a container's processes, shown as files, and requests of the kernel for them.

#![no_main]

// Of a program, not of a library.
#[allow(dead_code)]
#[path = "../../crates/kata/src/shim/procfs/table.rs"]
mod table;
#[allow(dead_code)]
#[path = "../../crates/kata/src/shim/procfs/tree.rs"]
mod tree;
#[allow(dead_code)]
#[path = "../../crates/kata/src/shim/procfs/wire.rs"]
mod wire;

use api::agent::ReadProcessesResponse;
use fuzz::take;
use protobuf::Message;
use table::Table;
use tree::{Node, Root};
use wire::Operation;

/// Of a table, in bytes, beside what one answer holds.
const MOST: usize = 16 << 20;
const PARTS: usize = 4;
const DIRECTORY: u32 = 0o040_000;
const TYPE: u32 = 0o170_000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut table = Table::default();
    let mut last = 0;
    for _ in 0..PARTS {
        let len = usize::from(u16::from_le_bytes([fuzz::byte(&mut rest), fuzz::byte(&mut rest)]));
        let Ok(part) = ReadProcessesResponse::parse_from_bytes(take(&mut rest, len)) else {
            break;
        };
        match table.add(part) {
            Ok(Some(next)) => {
                assert!(next > last, "the same is asked again");
                last = next;
            }
            _ => break,
        }
    }
    assert!(!table.processes.contains_key(&0));
    assert!(table.processes.len() < MOST / size_of::<table::Files>() + bytes.len());
    for root in [Root::Proc, Root::Dev, Root::Pts] {
        show(root, Node::Root(root), &table);
    }
    let Some(request) = wire::parse(rest) else {
        return;
    };
    for root in [Root::Proc, Root::Dev, Root::Pts] {
        let Some(node) = Node::of(root, request.node) else {
            continue;
        };
        assert_eq!(Node::of(root, node.number()), Some(node));
        if !node.exists(&table) {
            continue;
        }
        match &request.operation {
            Operation::Lookup(name) => {
                if let Some(child) = node.child(name) {
                    assert_eq!(Node::of(root, child.number()), Some(child));
                }
            }
            Operation::List { offset, size, .. } => {
                let entries = node.list(&table).unwrap_or_default();
                assert!(wire::list(&entries, *offset, *size).len() <= *size as usize);
            }
            Operation::Init { major, minor } => {
                let _ = wire::init(*major, *minor);
            }
            _ => {}
        }
    }
});

/// All that is listed is found by its name and its number.
fn show(root: Root, directory: Node, table: &Table) {
    for (name, attributes) in directory.list(table).expect("a directory") {
        let node = directory.child(name.as_bytes()).expect("it is found by its name");
        assert_eq!(Node::of(root, attributes.node), Some(node));
        assert!(node.exists(table) && node.attributes() == attributes);
        if attributes.mode & TYPE == DIRECTORY {
            show(root, node, table);
        } else {
            let _ = (node.text(table), node.link());
        }
    }
}
