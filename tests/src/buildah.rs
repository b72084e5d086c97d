// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Buildah with a storage and a runtime root of its own. All that it has made goes when it is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::engine::{self, IMAGE};
use crate::suite::{Place, Suite};
use crate::{Outcome, World, command};

/// See the module.
#[derive(Debug)]
pub struct Buildah<'w> {
    world: &'w World,
    /// Its name and version.
    pub client: String,
    runtime: PathBuf,
    place: Place,
}

impl<'w> Buildah<'w> {
    /// That of `suite`. Errors: why it cannot be had.
    pub fn new(world: &'w World, suite: Suite) -> Result<Buildah<'w>, String> {
        let place = Place::new(world, suite)?;
        let version = place.version("buildah")?;
        let version = version.split_whitespace().nth(2).unwrap_or_default().to_owned();
        // It names no root: the runtime's default one is the machine's.
        let runtime = world.dir().join("runtime");
        let tested = engine::runtime(world);
        let root = world.root();
        let script = format!(
            "#!/bin/sh\nexec '{}' --root '{}' \"$@\"\n",
            tested.display(),
            root.display()
        );
        fs::write(&runtime, script).expect("write the runtime's script");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).expect("chmod");
        // Limits that may be set everywhere.
        let config = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";
        fs::write(world.dir().join("containers.conf"), config).expect("write the configuration");
        let buildah = Buildah {
            world,
            client: format!("buildah {version}"),
            runtime,
            place,
        };
        let image = engine::image(world);
        let name = world.id("import");
        buildah.run(&["from", "--name", &name, "scratch"]).exits(0);
        buildah
            .run(&["add", "--quiet", &name, &image.to_string_lossy(), "/"])
            .exits(0);
        buildah.run(&["commit", "--quiet", "--rm", &name, IMAGE]).exits(0);
        Ok(buildah)
    }

    /// A verb, to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        let dir = self.world.dir();
        let mut command = self.place.command("buildah");
        command
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            // Its bundles are there.
            .env("TMPDIR", dir);
        for (option, name) in [("--root", "storage"), ("--runroot", "run")] {
            command.arg(option).arg(dir.join(name));
        }
        command::run(command.args(["--storage-driver", "overlay"]).args(args), b"")
    }

    /// Builds the directory `context` into the image `tag`, each of its steps in a container.
    #[track_caller]
    pub fn build(&self, options: &[&str], tag: &str, context: &str) -> Outcome {
        let runtime = self.runtime.to_string_lossy();
        let build = ["bud", "--isolation", "oci", "--network", "none", "--runtime", &runtime];
        self.run(&[&build[..], options, &["--tag", tag, context]].concat())
    }

    /// A file of an image.
    #[track_caller]
    pub fn file(&self, image: &str, path: &str) -> String {
        let name = self.world.id("look");
        self.run(&["from", "--name", &name, image]).exits(0);
        let root = PathBuf::from(self.run(&["mount", &name]).exits(0).text());
        // Where a mount of its storage is seen.
        let mut read = self.place.command("cat");
        let text = command::run(read.arg(root.join(path)), b"").exits(0).stdout.clone();
        let text = String::from_utf8(text).expect("it is text");
        self.run(&["rm", &name]).exits(0);
        text
    }
}

impl Drop for Buildah<'_> {
    fn drop(&mut self) {
        let gone = self.run(&["rm", "--all"]);
        if gone.code != 0 {
            eprintln!("buildah rm: {}", gone.stderr);
        }
        let storage = self.world.dir().join("storage/overlay");
        // It keeps a mount of its storage for itself.
        let _ = command::run(self.place.command("umount").arg(storage), b"");
    }
}
