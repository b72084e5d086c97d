// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Images that Buildah builds, each step in a container of runc first, then of ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::buildah::Buildah;
use vm_tests::engine::IMAGE;
use vm_tests::suite::Suite;
use vm_tests::{Verdict, World, both, command};

use crate::everyday::on_its_kernel;

pub fn cases() -> Vec<Trial> {
    Suite::ALL.into_iter().map(case).collect()
}

fn case(suite: Suite) -> Trial {
    both(&format!("{}::builds", suite.group("buildah")), move |w| {
        let buildah = match Buildah::new(w, suite) {
            Ok(buildah) => buildah,
            Err(why) => return Verdict::Skipped(why),
        };
        let mut seen = Behaviours::new(&buildah.client, w);
        seen.see("bud: RUN, ENV, ARG, USER, WORKDIR, COPY, SHELL", || steps(&buildah, w));
        seen.see("bud: a step that fails", || fails(&buildah, w));
        seen.see("bud: a compiler, a package, COPY --from", || compiles(&buildah, w));
        seen.end();
        Verdict::Held
    })
}

/// A directory to build.
fn context(w: &World, name: &str, text: &str) -> std::path::PathBuf {
    let dir = w.dir().join(name);
    fs::create_dir(&dir).expect("make a directory");
    fs::write(dir.join("Dockerfile"), text).expect("write");
    dir
}

fn steps(buildah: &Buildah<'_>, w: &World) {
    let text = format!(
        "FROM {IMAGE}\nARG GIVEN\nENV A=b\nCOPY file /tmp/file\nWORKDIR /work\n\
         RUN echo $A $GIVEN $(pwd) $(cat /tmp/file) >told && uname -r >kernel && chmod 777 .\n\
         USER 1000:1000\nSHELL [\"/bin/sh\", \"-euc\"]\nRUN id -u >user; mkdir -m 700 own; ln -s user link\n"
    );
    let dir = context(w, "steps", &text);
    fs::write(dir.join("file"), "copied\n").expect("write");
    buildah.build(&["--build-arg", "GIVEN=c"], "steps", "steps").exits(0);
    assert_eq!(buildah.file("steps", "work/told"), "b c /work copied\n");
    assert_eq!(buildah.file("steps", "work/link"), "1000\n");
    on_its_kernel(w, buildah.file("steps", "work/kernel").trim());
}

fn fails(buildah: &Buildah<'_>, w: &World) {
    context(w, "fails", &format!("FROM {IMAGE}\nRUN echo said; exit 7\n"));
    let outcome = buildah.build(&[], "fails", "fails");
    assert_ne!(outcome.code, 0);
    assert!(outcome.text().contains("said"), "{}", outcome.text());
    assert!(outcome.stderr.contains("exit status 7"), "{}", outcome.stderr);
}

/// The compiler and dpkg are the host's, as a volume.
fn compiles(buildah: &Buildah<'_>, w: &World) {
    let text = format!(
        "FROM base AS build\nCOPY program.c parcel.deb /src/\nWORKDIR /src\n\
         RUN gcc -O2 -Wall -Werror -static -o program program.c\n\
         RUN mkdir -p /var/lib/dpkg && touch /var/lib/dpkg/status && dpkg --install parcel.deb\n\
         FROM {IMAGE}\nCOPY --from=build /src/program /opt/parcel /bin/\nRUN program >/told && parcel >>/told\n"
    );
    let dir = context(w, "compiles", &text);
    let program = "#include <stdio.h>\nint main(void)\n{\n\tputs(\"compiled\");\n\treturn 0;\n}\n";
    fs::write(dir.join("program.c"), program).expect("write");
    package(w, &dir.join("parcel.deb"));
    context(w, "base", "FROM scratch\nCOPY root /\n");
    let root = w.dir().join("base/root");
    for place in ["etc", "proc", "sys", "dev", "usr", "tmp", "root"] {
        fs::create_dir_all(root.join(place)).expect("make a directory");
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).expect("link");
    }
    buildah.build(&[], "base", "base").exits(0);
    buildah
        .build(&["--volume", "/usr:/usr:ro"], "compiles", "compiles")
        .exits(0);
    assert_eq!(buildah.file("compiles", "told"), "compiled\ninstalled\n");
}

/// A package with one program and a script that runs when it is installed.
fn package(w: &World, path: &Path) {
    let root = w.dir().join("parcel");
    fs::create_dir_all(root.join("DEBIAN")).expect("make a directory");
    fs::create_dir(root.join("opt")).expect("make a directory");
    let control = "Package: parcel\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n";
    fs::write(root.join("DEBIAN/control"), control).expect("write");
    let scripts = [
        ("DEBIAN/postinst", "#!/bin/sh\nsed -i s/packed/installed/ /opt/parcel\n"),
        ("opt/parcel", "#!/bin/sh\necho packed\n"),
    ];
    for (name, text) in scripts {
        fs::write(root.join(name), text).expect("write");
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build"]).arg(&root).arg(path);
    command::run(&mut pack, b"").exits(0);
}
