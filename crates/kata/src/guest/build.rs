// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata guest build`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use base::{Context, Error, Kind, Result};
use clap::Args;
use config::Config;
use guest_image::{KernelChoice, Kernels, Request, Source, Store};

use super::agent;
use super::progress::interruptible;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the kernel comes from: `auto` (an installed one that fits, else the distribution's cloud kernel by apt), `own`
    /// (the last one that `kata guest kernel` made; `own:KEY` another one), a Debian release (`trixie`), a kernel package
    /// (`.deb`; repeat the option if it is split), a directory that `kata guest kernel --output` wrote, or a vmlinuz or
    /// vmlinux
    #[arg(long, default_value = "auto", value_name = "auto|own|SUITE|DEB|DIR|VMLINUZ")]
    kernel: Vec<PathBuf>,
    /// The modules of a kernel that is given as a file: its /lib/modules/RELEASE
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// The agent's program [default: guest.agent of the configuration, the one beside kata]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// The image's name
    #[arg(long, default_value = guest_image::store::DEFAULT)]
    name: String,
    /// Build even if the image exists, and look for a newer kernel
    #[arg(long)]
    force: bool,
    /// Write the image into a directory instead of the store
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn run(store: &Store, config: &Config, arguments: Arguments) -> Result<()> {
    let started = Instant::now();
    let agent = match arguments.agent.or_else(|| config.guest.agent.clone()) {
        Some(path) => path,
        None => agent::find()?,
    };
    let request = Request {
        kernel: choose(store, &arguments.kernel, arguments.modules.as_deref())?,
        agent: absolute(&agent)?,
        name: arguments.name,
        force: arguments.force,
    };
    let output = arguments.output;
    let store = store.clone();
    let (image, fresh) = interruptible(move |steps| match &output {
        Some(dir) => guest_image::export(dir, &request, steps).map(|image| (image, true)),
        None => guest_image::build(&store, &request, steps).map(|built| (built.image, built.fresh)),
    })?;
    let word = if fresh { "built" } else { "up to date:" };
    println!(
        "{word} {} (kernel {}, {} modules, {:.1} MiB) in {:.2} s",
        image.dir.display(),
        image.manifest.release,
        image.manifest.modules.len(),
        super::list::mebibytes(&image.manifest.outputs),
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).attempt(|| format!("find {}", path.display()))
}

fn choose(store: &Store, kernel: &[PathBuf], modules: Option<&Path>) -> Result<KernelChoice> {
    let invalid = |what: String| Err(Error::new(Kind::Invalid, what));
    let are_packages = kernel
        .iter()
        .all(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let first = kernel.first().cloned().unwrap_or_default();
    if let Some(modules) = modules {
        if kernel.len() != 1 || are_packages || first == Path::new("auto") || first.is_dir() {
            return invalid("--modules goes with one --kernel that is a vmlinuz or vmlinux".into());
        }
        let source = Source::tree(absolute(&first)?, absolute(modules)?, Path::new("/"));
        return Ok(KernelChoice::Given(source));
    }
    if are_packages {
        let paths: Result<Vec<PathBuf>> = kernel.iter().map(|path| absolute(path)).collect();
        return Ok(KernelChoice::Given(Source::Packages(paths?)));
    }
    match (kernel.len(), first.to_str()) {
        (1, Some("auto")) => Ok(KernelChoice::Auto),
        (1, _) if first.is_dir() => Ok(KernelChoice::Given(Source::Own(absolute(&first)?))),
        (1, Some(own)) if own == "own" || own.starts_with("own:") => {
            let kernel = Kernels::of(store).find(own.strip_prefix("own:"))?;
            Ok(KernelChoice::Given(Source::Own(kernel.dir)))
        }
        (1, Some(suite)) if suite.bytes().all(|byte| byte.is_ascii_lowercase()) && !first.exists() => {
            Ok(KernelChoice::Suite(suite.to_owned()))
        }
        (1, _) => invalid(format!("kernel {} needs --modules DIR", first.display())),
        _ => invalid("several --kernel must all be .deb files".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(kernel: &[&str], modules: Option<&str>) -> Result<KernelChoice> {
        let kernel: Vec<PathBuf> = kernel.iter().map(PathBuf::from).collect();
        choose(&Store::at("/nowhere"), &kernel, modules.map(Path::new))
    }

    #[test]
    fn a_kernel_is_chosen_by_what_the_words_look_like() {
        assert_eq!(choice(&["auto"], None).unwrap(), KernelChoice::Auto);
        assert_eq!(choice(&["trixie"], None).unwrap(), KernelChoice::Suite("trixie".into()));
        let given = choice(&["/a.deb", "/b.deb"], None).unwrap();
        assert_eq!(
            given,
            KernelChoice::Given(Source::Packages(vec!["/a.deb".into(), "/b.deb".into()]))
        );
        let dir = KernelChoice::Given(Source::Own("/".into()));
        assert_eq!(choice(&["/"], None).unwrap(), dir);
        assert!(matches!(
            choice(&["/boot/vmlinuz-1"], Some("/lib/modules/1")).unwrap(),
            KernelChoice::Given(Source::Tree { .. })
        ));
    }

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        assert!(
            choice(&["/boot/vmlinuz-1"], None)
                .unwrap_err()
                .chain()
                .contains("--modules")
        );
        assert!(choice(&["auto"], Some("/lib/modules/1")).is_err());
        assert!(choice(&["/a.deb"], Some("/lib/modules/1")).is_err());
        assert!(choice(&["/a.deb", "auto"], None).is_err());
        assert!(choice(&["/"], Some("/lib/modules/1")).is_err());
        for own in ["own", "own:12ab"] {
            let error = choice(&[own], None).unwrap_err().chain();
            assert!(error.contains("run `kata guest kernel`"), "{error}");
        }
    }
}
