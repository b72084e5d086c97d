// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Who is measured: ours and runc, or two builds of ours.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use vm_tests::{Runtime, World, command, leak, world};

use crate::report::Table;

/// One of them.
#[derive(Debug, Clone)]
pub struct Contender {
    pub name: String,
    pub runtime: Runtime,
    binaries: PathBuf,
}

/// What a section is given.
#[derive(Debug)]
pub struct Setting {
    pub contenders: Vec<Contender>,
    /// The ratio that tables have.
    ratio: (usize, usize),
    /// How often each thing is measured.
    pub runs: usize,
    /// Sandboxes that idle side by side.
    pub sandboxes: usize,
    /// The largest crowd.
    pub crowd: usize,
}

/// Names of the worlds of this process, so that nothing of them stays when it fails.
static WORLDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Contender {
    fn ours(name: &str, binaries: PathBuf) -> Contender {
        Contender {
            name: name.to_owned(),
            runtime: Runtime::Ours,
            binaries,
        }
    }

    /// Whether it is a build of ours.
    pub fn is_ours(&self) -> bool {
        self.runtime == Runtime::Ours
    }

    /// Where its programs are.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// A world for it.
    pub fn world(&self) -> World {
        let world = World::with(self.runtime, self.binaries.clone());
        if let (Ok(mut all), Some(name)) = (WORLDS.lock(), world.dir().file_name()) {
            all.push(name.to_string_lossy().into_owned());
        }
        world
    }

    /// Its guest image's store.
    pub fn images(&self) -> guest_image::Store {
        let own = self.binaries.join("guest");
        if own.is_dir() {
            guest_image::Store::at(own)
        } else {
            // That of the programs' own configuration.
            let settings = config::Loaded::load(&config::Selection::default(), &|name| std::env::var_os(name));
            guest_image::Store::at(settings.unwrap_or_default().config.guest.directory)
        }
    }
}

impl Setting {
    /// Ours beside runc; or `builds`, two directories of programs, B's ratio to A.
    pub fn new(builds: Option<[PathBuf; 2]>, runs: usize, sandboxes: usize, crowd: usize) -> Setting {
        let (contenders, ratio) = match builds {
            Some([a, b]) => (vec![Contender::ours("A", a), Contender::ours("B", b)], (1, 0)),
            None => {
                let runc = Contender {
                    name: "runc".into(),
                    runtime: Runtime::Reference,
                    binaries: PathBuf::new(),
                };
                (vec![Contender::ours("ours", world::binaries()), runc], (0, 1))
            }
        };
        Setting {
            contenders,
            ratio,
            runs,
            sandboxes,
            crowd,
        }
    }

    /// Makes the templates, so that no start waits for one or runs beside its making.
    pub fn prepare(&self) {
        for contender in self.ours() {
            let mut command = world::program(contender.binaries());
            command::run(command.args(["guest", "template", "build"]), b"").exits(0);
        }
    }

    /// The builds of ours.
    pub fn ours(&self) -> impl Iterator<Item = &Contender> {
        self.contenders.iter().filter(|contender| contender.is_ours())
    }

    /// A table with a column for each contender.
    pub fn table(&self, title: &str, unit: &str) -> Table {
        let mut table = Table::new(
            title,
            unit,
            self.contenders.iter().map(|one| one.name.clone()).collect(),
        );
        table.ratio = Some(self.ratio);
        table
    }

    /// A table with a column for each build of ours.
    pub fn table_of_ours(&self, title: &str, unit: &str) -> Table {
        let columns: Vec<String> = self.ours().map(|one| one.name.clone()).collect();
        let mut table = Table::new(title, unit, columns);
        table.ratio = (table.columns.len() > 1).then_some(self.ratio);
        table
    }
}

/// Kills what the worlds of this process have left: it has failed.
pub fn sweep() {
    let names = WORLDS.lock().map(|names| names.clone()).unwrap_or_default();
    for name in names {
        leak::sweep_all(&name);
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(name));
    }
}
