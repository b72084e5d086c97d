// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata run`: from options and an image to a bundle, and to a container of the runtime. Whatever was made goes with its guard.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Context, Error, Kind, Result};
use config::Loaded;
use nix::sys::stat::Mode;
use oci::Bundle;
use sandbox::passt::Wish;
use serde_json::{Value, json};

use super::arguments::{RunArgs, Template};
use super::environment::{self, Environment};
use super::interrupt::Interrupt;
use super::record::{self, Place, Record};
use super::root::{Config, Root};
use super::timeline::Timeline;
use super::volume::Volume;
use super::{Failure, Here, end, name, network, spec};
use crate::runtime::create::{Given, Made};
use crate::runtime::{Globals, print, signal};
use crate::settings;
use crate::shim::{Launch, Pids, Stdio};

/// The answer is the process's exit code, 0 when detached.
pub fn run(here: &Here, args: &RunArgs) -> Result<u8, Failure> {
    check(args)?;
    let mut interrupt = Interrupt::watch()?;
    let done = make(here, args, &mut interrupt);
    done.map_err(|failure| match interrupt.caught() {
        Some(signal) => Failure {
            code: u8::try_from(128 + signal).unwrap_or(super::FAILED),
            error: Error::new(Kind::Gone, "interrupted"),
        },
        None => failure,
    })
}

/// What can be refused before anything is made.
fn check(args: &RunArgs) -> Result<()> {
    if let Some(file) = args.cidfile.as_ref().filter(|file| file.exists()) {
        return Err(Error::new(Kind::Exists, format!("{} exists", file.display())));
    }
    if let Some(text) = &args.stop_signal {
        signal::parse(text)?;
    }
    Ok(())
}

fn make(here: &Here, args: &RunArgs, interrupt: &mut Interrupt) -> Result<u8, Failure> {
    let mut timeline = Timeline::begin();
    let reserved = here.records.reserve(args.name.as_deref())?;
    let place = &reserved.place;
    let image = args.words.first().map_or("", String::as_str);
    let images = &here.settings.config.run.images;
    let root = Root::open(image, args.pull, images, interrupt.cancel())?;
    timeline.end("image");
    let network = network::choose(args, &here.settings.config.run)?;
    let record = describe(args, place, &root, network.as_ref())?;
    let config = config(here, args, place, &root, &record, network.as_ref())?;
    write_bundle(place, &config)?;
    let mounts = root.mounts(place)?;
    place.write(&record)?;
    // From here the record keeps the image's layers.
    drop(root);
    let cid = CidFile::write(args.cidfile.as_deref(), &record.id)?;

    timeline.end("bundle");
    let globals = Globals {
        user_network: network,
        settings: settings(here, args)?,
        ..here.globals(Some(place.log()))
    };
    let bundle = Bundle::open(&place.bundle())?;
    let given = Given {
        rootfs: mounts,
        ..Given::default()
    };
    let made = Made::new(&globals, &record.id, &bundle, given, &|lease| {
        interrupt.cuts(lease.socket()?)
    });
    let made = made.map_err(Failure::of_start)?;
    timeline.end("create");
    let started = move |sandbox: &Path| {
        timeline.end("start");
        if let Some(file) = &args.timeline {
            timeline.draw(sandbox, file);
        }
    };
    if args.detach {
        let launch = Launch {
            // It deletes the sandbox in the end, whose processes it has to see for that.
            pids: Pids::Callers,
            record: Some(place.path().to_owned()),
            stdio: Some(detached_stdio(place, args)?.map(Some)),
            ..made.launch(None)
        };
        made.detach(launch, None, started).map_err(Failure::of_start)?;
        cid.keep();
        reserved.keep();
        print(&format!("{}\n", record.id))?;
        return Ok(0);
    }
    let stdio = stdio(args.interactive, args.tty)?;
    // Whoever carries the process takes the signals over.
    interrupt.end()?;
    let place = reserved.keep();
    match made.attend(stdio, None, false, started) {
        Ok(code) => {
            cid.keep();
            end::note(&here.records, &place, &record.id, code, || Ok(()))?;
            Ok(code)
        }
        Err(e) => {
            match place.hold() {
                Ok(_held) => here.records.discard(&place)?,
                Err(gone) => log::debug!("{}", gone.chain()),
            }
            Err(Failure::of_start(e))
        }
    }
}

/// The configuration with what the line says of the machine.
fn settings(here: &Here, args: &RunArgs) -> Result<Arc<Loaded>> {
    let mut selection = here.settings.selection.clone();
    if let Some(hypervisor) = &args.hypervisor {
        selection = selection.and("hypervisor.name", hypervisor);
    }
    if let Some(template) = args.template {
        selection = selection.and("template.enable", (template == Template::On).to_string());
    }
    if selection == here.settings.selection {
        return Ok(Arc::clone(&here.settings));
    }
    settings::load(&selection)
}

/// Who it will be.
fn describe(args: &RunArgs, place: &Place, root: &Root, network: Option<&Wish>) -> Result<Record> {
    let config = root.config();
    let own = config.stop_signal.filter(|text| signal::parse(text).is_ok());
    Ok(Record {
        id: name::id()?,
        name: place.name(),
        image: root.name(),
        command: command(args, &root.config())?,
        created: record::now(),
        chains: root.chains(),
        layers: root.layers(),
        remove: args.rm,
        logged: args.detach,
        stop_signal: args.stop_signal.clone().or(own).unwrap_or_else(|| "TERM".into()),
        ports: network.map_or_else(Vec::new, |network| network.ports.clone()),
    })
}

/// The program and its arguments. Errors: `Invalid` when nobody names one.
fn command(args: &RunArgs, config: &Config) -> Result<Vec<String>> {
    let words = args.words.get(1..).unwrap_or_default();
    let (mut command, default) = match args.entrypoint.as_deref() {
        Some("") => (Vec::new(), &[][..]),
        Some(program) => (vec![program.to_owned()], &[][..]),
        None => (config.entrypoint.clone(), &config.command[..]),
    };
    command.extend_from_slice(if words.is_empty() { default } else { words });
    if command.is_empty() {
        let what = "no command: neither the line nor the image names one";
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(command)
}

/// The spec; makes the directories of its volumes.
fn config(
    here: &Here,
    args: &RunArgs,
    place: &Place,
    root: &Root,
    record: &Record,
    network: Option<&Wish>,
) -> Result<Value> {
    let config = root.config();
    let user = args.process.user.clone().or(config.user).unwrap_or_default();
    let hostname = args.hostname.clone().unwrap_or_else(|| record.short().to_owned());
    let mut variables = Environment::of([environment::PATH.to_owned(), format!("HOSTNAME={hostname}")]);
    if args.tty {
        variables.set("TERM=xterm");
    }
    for variable in &config.environment {
        variables.set(variable);
    }
    variables.add(&args.process)?;
    let volumes = args.volume.iter().map(|text| Volume::parse(text));
    let volumes = volumes.collect::<Result<Vec<_>>>()?;
    let mut mounts = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let fresh = place.path().join("volumes").join(index.to_string());
        mounts.push(volume.mount(&here.records.volumes(), &fresh)?);
    }
    if matches!(root, Root::Image(_)) {
        let hides = |target: &Path| volumes.iter().any(|volume| target.starts_with(&volume.target));
        mounts.extend(names(place, &hostname, network, &hides)?);
    }
    let found = spec::Found {
        root: root.path().to_owned(),
        cwd: args
            .process
            .workdir
            .clone()
            .or(config.cwd)
            .unwrap_or_else(|| "/".into()),
        command: record.command.clone(),
        environment: variables.into_list(),
        identity: place.accounts(record)?.resolve(&user)?,
        mounts,
        hostname,
    };
    spec::document(args, &found)
}

/// Files by which a container knows its own name, where no volume `hides` them.
fn names(place: &Place, hostname: &str, network: Option<&Wish>, hides: &dyn Fn(&Path) -> bool) -> Result<Vec<Value>> {
    let mut files = vec![
        ("hosts", network::hosts(hostname, network)),
        ("hostname", format!("{hostname}\n")),
    ];
    if network.is_some() {
        files.push(("resolv.conf", network::resolver(Path::new("/etc/resolv.conf"))));
    }
    let mut mounts = Vec::new();
    for (name, text) in files {
        let (source, target) = (place.path().join(name), PathBuf::from("/etc").join(name));
        if hides(&target) {
            continue;
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&source);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
        written.attempt(|| format!("write {}", source.display()))?;
        mounts.push(json!({
            "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate"]
        }));
    }
    Ok(mounts)
}

fn write_bundle(place: &Place, config: &Value) -> Result<()> {
    let dir = place.bundle();
    // The mount point of the runtime's words; what is there is mounted elsewhere.
    fs::create_dir_all(dir.join("rootfs")).attempt(|| format!("create directory {}", dir.display()))?;
    let json = serde_json::to_vec_pretty(config).context(Kind::Bug, || "write the spec".into())?;
    base::file::replace(&dir.join("config.json"), &json)
}

/// Our own streams, without the input unless it is wanted.
pub fn stdio(interactive: bool, tty: bool) -> Result<Stdio> {
    let null = || File::open("/dev/null").attempt(|| "open /dev/null".into());
    Ok(match (Stdio::inherited(tty)?, interactive) {
        (stdio, true) => stdio,
        (Stdio::Terminal { output, .. }, false) => Stdio::Terminal {
            input: null()?.into(),
            output,
        },
        (Stdio::Streams([_, output, error]), false) => Stdio::Streams([Some(null()?.into()), output, error]),
        (stdio @ Stdio::Console { .. }, false) => stdio,
    })
}

/// Both outputs go to one file, in the order in which they come.
fn detached_stdio(place: &Place, args: &RunArgs) -> Result<[OwnedFd; 3]> {
    let path = place.output();
    let what = || format!("open {}", path.display());
    let output = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let output = OwnedFd::from(output.attempt(what)?);
    let again = output.try_clone().attempt(what)?;
    let input = if args.interactive {
        endless(place)?
    } else {
        File::open("/dev/null").attempt(|| "open /dev/null".into())?
    };
    Ok([input.into(), output, again])
}

/// An input that brings nothing and never ends.
fn endless(place: &Place) -> Result<File> {
    let path = place.path().join("input");
    let what = || format!("make {}", path.display());
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).attempt(what)?;
    // Whoever reads is a writer, too, so that there always is one.
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    fs::remove_file(&path).attempt(what)?;
    opened.attempt(what)
}

/// `--cidfile`: goes again when the container was not made.
#[derive(Debug)]
struct CidFile(Option<PathBuf>);

impl CidFile {
    fn write(path: Option<&Path>, id: &str) -> Result<CidFile> {
        let Some(path) = path else {
            return Ok(CidFile(None));
        };
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let mut file = made.attempt(|| format!("create {}", path.display()))?;
        let guard = CidFile(Some(path.to_owned()));
        file.write_all(id.as_bytes())
            .attempt(|| format!("write {}", path.display()))?;
        Ok(guard)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use clap::Parser;
    use config::definition::Run;

    use super::super::arguments::{Line, Verb};
    use super::*;

    fn args(options: &str) -> RunArgs {
        let words = ["kata", "run"]
            .into_iter()
            .chain(options.split(' ').map(|word| if word == "''" { "" } else { word }));
        match Line::try_parse_from(words).unwrap().verb {
            Some(Verb::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_is_the_lines_or_the_images() {
        let config = Config {
            entrypoint: vec!["entry".into()],
            command: vec!["default".into()],
            ..Config::default()
        };
        for (options, want) in [
            ("i", "entry default"),
            ("i a b", "entry a b"),
            ("--entrypoint p i", "p"),
            ("--entrypoint p i a", "p a"),
            ("--entrypoint '' i a", "a"),
        ] {
            assert_eq!(command(&args(options), &config).unwrap().join(" "), want, "{options}");
        }
        assert!(command(&args("--entrypoint '' i"), &config).is_err());
        assert!(command(&args("i"), &Config::default()).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        let chain = network::choose(&args("--network none -p 80:80 i"), &Run::default())
            .unwrap_err()
            .chain();
        assert!(chain.contains("--publish needs a network"), "{chain}");
        assert_eq!(network::choose(&args("--net none i"), &Run::default()).unwrap(), None);
        check(&args("i")).unwrap();
        assert!(check(&args("--stop-signal NOSUCH i")).is_err());
        assert!(check(&args("--cidfile / i")).is_err());
    }

    #[test]
    fn the_line_goes_before_the_configuration() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("k.toml");
        fs::write(&file, "run.network = \"none\"\ntemplate.enable = false\n").unwrap();
        let selection = config::Selection::default().with(Some(file), None).unwrap();
        let here = Here {
            records: super::super::records::Records::at(top.path().join("state")).unwrap(),
            root: top.path().join("run"),
            settings: settings::load(&selection).unwrap(),
        };
        let run = &here.settings.config.run;
        assert_eq!(network::choose(&args("i"), run).unwrap(), None);
        let told = |options: &str| settings(&here, &args(options)).unwrap().config.clone();
        assert_eq!(
            (told("i").template.enable, told("i").hypervisor.name.as_str()),
            (false, "auto")
        );
        let config = told("--template on --hypervisor qemu-tcg i");
        assert_eq!(
            (config.template.enable, config.hypervisor.name.as_str()),
            (true, "qemu-tcg")
        );
        assert!(!told("--template off i").template.enable);
    }

    #[test]
    fn the_id_file_goes_with_a_container_that_was_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        drop(CidFile::write(Some(&path), "abc").unwrap());
        assert!(!path.exists());
        CidFile::write(Some(&path), "abc").unwrap().keep();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert!(CidFile::write(Some(&path), "abc").is_err());
        assert!(path.exists(), "it is another's");
    }

    #[test]
    fn a_directory_becomes_a_bundle() {
        let top = tempfile::tempdir().unwrap();
        let here = Here {
            records: super::super::records::Records::at(top.path().join("state")).unwrap(),
            root: top.path().join("run"),
            settings: Arc::default(),
        };
        let dir = top.path().join("rootfs");
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/passwd"), "web:x:33:34::/:\n").unwrap();
        let args = args("-e A=b --user web -v data:/data -v /fresh --rm r sh");
        let root = Root::Directory(dir.clone());
        let reserved = here.records.reserve(None).unwrap();
        let record = describe(&args, &reserved.place, &root, None).unwrap();
        assert_eq!(
            (record.image, record.remove),
            (format!("rootfs:{}", dir.display()), true)
        );
        let record = describe(&args, &reserved.place, &root, None).unwrap();
        let config = config(&here, &args, &reserved.place, &root, &record, None).unwrap();
        write_bundle(&reserved.place, &config).unwrap();
        let bundle = Bundle::open(&reserved.place.bundle()).unwrap();
        assert_eq!(bundle.rootfs(), dir.canonicalize().unwrap());
        assert_eq!(
            config["process"]["user"],
            json!({"uid": 33, "gid": 34, "additionalGids": []})
        );
        let env = config["process"]["env"].to_string();
        assert!(
            env.contains("A=b") && env.contains(&format!("HOSTNAME={}", record.short())),
            "{env}"
        );
        assert_eq!(config["mounts"].as_array().unwrap().len(), 9);
        assert!(here.records.volumes().join("data").is_dir());
        let place = reserved.place.clone();
        drop(reserved);
        assert!(!place.path().exists());
    }

    #[test]
    fn an_endless_input_does_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = endless(&Place::new(dir.path().to_owned())).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        file.write_all(b"x").unwrap();
        assert_eq!(file.read(&mut [0; 8]).unwrap(), 1);
    }
}
