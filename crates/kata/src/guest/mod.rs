// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest`: builds, lists, shows and removes guest images. What an image is, the crate `guest-image` knows.

mod agent;
mod build;
mod list;
mod sys;
mod template;

use std::ffi::OsString;
use std::process::ExitCode;

use base::Result;
use clap::{Parser, Subcommand};
use guest_image::Store;

/// Guest images: the kernel and the initramfs that every sandbox boots
#[derive(Debug, Parser)]
#[command(name = "kata guest", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image, unless it is there already
    Build(build::Arguments),
    /// List images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Frozen guests, from which sandboxes begin without booting
    #[command(subcommand)]
    Template(template::Command),
    /// Print an image's manifest
    Inspect {
        /// A name, a key, or the start of a key
        #[arg(default_value = guest_image::store::DEFAULT)]
        image: String,
        /// Compare every file with its hash
        #[arg(long)]
        verify: bool,
    },
    /// Remove images
    Rm {
        /// Names, keys, or starts of keys
        #[arg(required_unless_present = "all")]
        images: Vec<String>,
        /// Remove every image
        #[arg(long, conflicts_with = "images")]
        all: bool,
    },
}

/// `args` without the program's name and the role's word.
pub fn main(args: &[OsString]) -> ExitCode {
    let name = OsString::from("kata guest");
    let arguments = match Arguments::try_parse_from([&name].into_iter().chain(args)) {
        Ok(arguments) => arguments,
        Err(e) => {
            // Nothing is left to say it with if printing fails.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kata guest: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let store = Store::open();
    match command {
        Command::Build(arguments) => build::run(&store, arguments),
        Command::Template(command) => template::run(command),
        Command::Ls { json } => list::run(&store, json),
        Command::Inspect { image, verify } => list::inspect(&store, &image, verify),
        Command::Rm { all: true, .. } => {
            let count = store.remove_all()?;
            println!("removed {count} images");
            Ok(())
        }
        Command::Rm { images, .. } => images.iter().try_for_each(|image| store.remove(image)),
    }
}
