// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest kernel`: compiles kernels for guests, and lists and shows them. How that is done, the crate `guest-image`
//! knows.

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use base::{Context, Error, Kind, Result};
use clap::Args;
use guest_image::own::source::{Origin, PACKAGE};
use guest_image::own::{self, Request};
use guest_image::{Kernels, Store};
use serde_json::json;

use super::list::mebibytes;
use super::progress::interruptible;

/// Compile a kernel for guests that is smaller and boots faster than the distribution's
///
/// It is made of the source of a distribution's kernel. Its configuration has all that containers may ask for and
/// nothing that only hardware has, all of it built in: it is smaller than the distribution's kernel, and an emulated
/// machine boots it in half of the time. The same source, fragments and compiler make the same kernel, byte by byte. It
/// takes some ten minutes of two processors, 4 GiB of disk in /var/cache/kata (or $KATA_CACHE_DIR) while it runs, and
/// gcc, make, flex, bison, bc and libelf-dev.
///
/// The kernel goes into the guest store. `kata guest build --kernel own` makes a guest image of it; `kata guest build` goes
/// back to the distribution's kernel. Nobody but you looks after its security updates: run the command again when the
/// distribution has a new source.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The source: a package linux-source-VERSION of the system's release or, with /SUITE behind it, of another Debian
    /// release; a tar archive; or a directory. Linux 6.12 or newer
    #[arg(long, default_value = PACKAGE, value_name = "PACKAGE[/SUITE]|ARCHIVE|DIR")]
    source: String,
    /// A configuration fragment that is laid over ours: lines CONFIG_X=VALUE and `# CONFIG_X is not set`. Repeat it for
    /// several; the last one wins. An option that does not take hold is an error
    #[arg(long, value_name = "FILE")]
    fragment: Vec<PathBuf>,
    /// How many files are compiled at a time [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Compile even if the kernel exists
    #[arg(long)]
    force: bool,
    /// Write the kernel into a directory instead of the store
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print the configuration that fragments are laid over, and do nothing
    #[arg(long, exclusive = true)]
    print_config: bool,
}

const EXAMPLES: &str = "\
Examples:
  kata guest kernel                          the default source and configuration
  kata guest build --kernel own              sandboxes boot it from now on
  kata guest build                           sandboxes boot the distribution's kernel again
  echo CONFIG_XFS_FS=y > xfs.config
  kata guest kernel --fragment xfs.config    with another file system
  kata guest kernel --source linux-source-6.12/trixie
  kata guest ls --kernels                    what there is
  kata guest inspect --kernel                what the last one was made of

Environment:
  SOURCE_DATE_EPOCH   the time that the kernel says it was built at [default: that of its source]
  KATA_GUEST_DIR      the guest store [default: /var/lib/kata/guest]
  KATA_CACHE_DIR      packages and the tree that is compiled [default: /var/cache/kata]";

pub fn run(store: &Store, arguments: Arguments) -> Result<()> {
    if arguments.print_config {
        print!("{}", own::FRAGMENT);
        return Ok(());
    }
    let started = Instant::now();
    let request = Request {
        source: Origin::of(&arguments.source)?,
        fragments: absolute(&arguments.fragment)?,
        jobs: match arguments.jobs {
            Some(jobs) => jobs,
            None => thread::available_parallelism().map_or(1, usize::from),
        },
        epoch: epoch()?,
        force: arguments.force,
    };
    let kernels = Kernels::of(store);
    let output = arguments.output;
    let (kernel, fresh) = interruptible(move |steps| match &output {
        Some(dir) => own::export(dir, &request, steps).map(|kernel| (kernel, true)),
        None => own::build(&kernels, &request, steps),
    })?;
    let word = if fresh { "built" } else { "up to date:" };
    println!(
        "{word} {} (kernel {}, {:.1} MiB) in {:.0} s; `kata guest build --kernel {}` makes an image of it",
        kernel.dir.display(),
        kernel.manifest.release,
        mebibytes(&kernel.manifest.outputs),
        started.elapsed().as_secs_f64(),
        if kernel.dir.starts_with(store.dir()) {
            "own".into()
        } else {
            kernel.dir.display().to_string()
        },
    );
    Ok(())
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let absolute = |path: &PathBuf| std::path::absolute(path).attempt(|| format!("find {}", path.display()));
    paths.iter().map(absolute).collect()
}

/// The time that the environment asks for.
fn epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let invalid = || {
        Error::new(
            Kind::Invalid,
            format!("SOURCE_DATE_EPOCH={} is no number", text.display()),
        )
    };
    number.map(Some).ok_or_else(invalid)
}

pub fn list(store: &Store, json: bool) -> Result<()> {
    let kernels = Kernels::of(store).list()?;
    if json {
        let rows = kernels.iter().map(|(kernel, last)| {
            let manifest = &kernel.manifest;
            json!({
                "key": manifest.key, "own": last, "kernel": manifest.release, "created": manifest.created,
                "config": manifest.config, "source": manifest.source.path, "path": kernel.dir,
                "size": manifest.outputs.iter().map(|output| output.size).sum::<u64>(),
            })
        });
        println!("{}", rows.collect::<serde_json::Value>());
        return Ok(());
    }
    println!("{:<14} {:<12} {:<32} {:>8}  CREATED", "KEY", "NAME", "KERNEL", "MIB");
    for (kernel, last) in kernels {
        let manifest = &kernel.manifest;
        println!(
            "{:<14} {:<12} {:<32} {:>8.1}  {}",
            manifest.key.get(..12).unwrap_or(&manifest.key),
            if last { "own" } else { "" },
            manifest.release,
            mebibytes(&manifest.outputs),
            manifest.created.get(..19).unwrap_or(&manifest.created),
        );
    }
    Ok(())
}

pub fn inspect(store: &Store, key: &str, verify: bool) -> Result<()> {
    let kernel = Kernels::of(store).find(Some(key))?;
    let text = serde_json::to_string_pretty(&kernel.manifest).context(Kind::Bug, || "print the manifest".into())?;
    println!("{text}");
    kernel.check(verify)
}
