// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest`: builds, lists, shows and removes guest images and their kernels. What an image is, the crate `guest-image` knows.

mod agent;
mod build;
mod kernel;
mod list;
mod progress;
mod sys;
mod template;

use std::ffi::OsString;
use std::process::ExitCode;

use base::Result;
use clap::{Parser, Subcommand};
use config::Loaded;
use guest_image::{Kernels, Store};

use crate::line;
use crate::settings::Choice;

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
    Kernel(kernel::Arguments),
    /// List images
    Ls {
        /// List the kernels that were compiled instead
        #[arg(long)]
        kernels: bool,
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
        /// Print that of a kernel that was compiled instead
        #[arg(long)]
        kernel: bool,
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
        /// Remove kernels that were compiled instead; images made of them stay
        #[arg(long)]
        kernel: bool,
    },
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// `args` without the program's name and the role's word.
pub fn main(choice: &Choice, args: &[OsString]) -> ExitCode {
    let arguments = match line::parse::<Arguments>("kata guest", args) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match choice.load().and_then(|settings| run(&settings, arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kata guest: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Loaded, command: Command) -> Result<()> {
    let store = Store::at(&settings.config.guest.directory);
    match command {
        Command::Build(arguments) => build::run(&store, &settings.config, arguments),
        Command::Template(command) => template::run(settings, command),
        Command::Kernel(arguments) => kernel::run(&store, arguments),
        Command::Ls { json, kernels: true } => kernel::list(&store, json),
        Command::Ls { json, .. } => list::run(&store, json),
        Command::Inspect { image, verify, kernel } if kernel => kernel::inspect(&store, &image, verify),
        Command::Inspect { image, verify, .. } => list::inspect(&store, &image, verify),
        Command::Rm { all, images, kernel } => remove(&store, all, &images, kernel),
    }
}

fn remove(store: &Store, all: bool, names: &[String], kernel: bool) -> Result<()> {
    let kernels = Kernels::of(store);
    match (all, kernel) {
        (true, true) => println!("removed {} kernels", kernels.remove_all()?),
        (true, false) => println!("removed {} images", store.remove_all()?),
        (false, true) => names.iter().try_for_each(|name| kernels.remove(name))?,
        (false, false) => names.iter().try_for_each(|name| store.remove(name))?,
    }
    Ok(())
}
