// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What applications do to files: `posix_torture DIRECTORY [FILES]`, as root. One line per check, `ok name` or `FAIL name: why`; exit
//! code 1 if any failed. It is proved on a file system of the host before it judges ours, from inside a guest. FILES (2000) is how
//! many the directory of many files holds.
//!
//! It knows nothing of virtual machines, and needs nothing but itself: link it statically.

macro_rules! expect {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+).into());
        }
    };
}

mod attributes;
mod child;
mod content;
mod names;
mod rights;

use std::error::Error;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::stat::Mode;

type Outcome = Result<(), Box<dyn Error>>;
type Check = (&'static str, fn(&Path) -> Outcome);

/// The bytes of a page.
const PAGE: usize = 4096;
/// Somebody who is not root, and a group that is not theirs by default.
const USER: u32 = 12345;
const GROUP: u32 = 23456;

const CHECKS: &[Check] = &[
    ("read_and_write", content::read_and_write),
    ("truncate_and_extend", content::truncate_and_extend),
    ("append_by_two", content::append_by_two),
    ("exclusive_create", names::exclusive_create),
    ("names_of_any_bytes", names::names_of_any_bytes),
    ("rename_replaces", names::rename_replaces),
    ("rename_noreplace", names::rename_noreplace),
    ("rename_exchange", names::rename_exchange),
    ("rename_of_directories", names::rename_of_directories),
    ("rename_while_open", names::rename_while_open),
    ("hard_links", names::hard_links),
    ("symbolic_links", names::symbolic_links),
    ("unlink_while_open", names::unlink_while_open),
    ("directories_refuse", names::directories_refuse),
    ("attributes_extended", attributes::attributes_extended),
    ("lock_of_whole_file", content::lock_of_whole_file),
    ("lock_of_range", content::lock_of_range),
    ("mapping_shared_writable", content::mapping_shared_writable),
    ("mapping_by_two", content::mapping_by_two),
    ("direct_io", content::direct_io),
    ("holes", content::holes),
    ("holes_punched", content::holes_punched),
    ("space_reserved", content::space_reserved),
    ("copy_of_range", content::copy_of_range),
    ("times_by_nanosecond", attributes::times_by_nanosecond),
    ("owner_kept", rights::owner_kept),
    ("owner_of_new_files", rights::owner_of_new_files),
    ("group_of_directory", rights::group_of_directory),
    ("group_supplementary", rights::group_supplementary),
    ("access_denied", rights::access_denied),
    ("sticky_directory", rights::sticky_directory),
    ("set_uid_cleared_by_write", rights::set_uid_cleared_by_write),
    ("set_uid_cleared_by_chown", rights::set_uid_cleared_by_chown),
    ("umask_honoured", rights::umask_honoured),
    ("special_files", attributes::special_files),
    ("program_runs", attributes::program_runs),
    ("file_system_size", attributes::file_system_size),
    ("directory_read_while_emptied", names::directory_read_while_emptied),
    ("many_files", names::many_files),
];

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let done = match &words[..] {
        [_, child, what, path] if child == "--child" => return child::as_child(what, Path::new(path)),
        [_, dir] | [_, dir, _] => run(Path::new(dir)),
        _ => Err("usage: posix_torture DIRECTORY [FILES]".into()),
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} of {} failed", CHECKS.len());
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("posix_torture: {e}");
            ExitCode::from(2)
        }
    }
}

/// How many failed.
fn run(dir: &Path) -> Result<usize, Box<dyn Error>> {
    let dir = fs::canonicalize(dir)?.join(format!("torture-{}", std::process::id()));
    nix::sys::stat::umask(Mode::empty());
    DirBuilder::new().mode(0o777).create(&dir)?;
    let mut failed = 0;
    for (name, check) in CHECKS {
        let place = dir.join(name);
        let made = DirBuilder::new().mode(0o777).create(&place);
        match made.map_err(Into::into).and_then(|()| check(&place)) {
            Ok(()) => println!("ok {name}"),
            Err(e) => {
                println!("FAIL {name}: {e}");
                failed += 1;
            }
        }
    }
    fs::remove_dir_all(&dir)?;
    Ok(failed)
}

fn refused<T>(what: &str, got: Result<T, impl Into<std::io::Error>>, wanted: Errno) -> Outcome {
    match got.map_err(Into::into) {
        Ok(_) => Err(format!("{what}: went through, {wanted} expected").into()),
        Err(e) if e.raw_os_error() == Some(wanted as i32) => Ok(()),
        Err(e) => Err(format!("{what}: {e}, {wanted} expected").into()),
    }
}

fn both(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
