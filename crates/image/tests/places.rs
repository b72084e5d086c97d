// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Images in layouts and archives on this machine: good ones come out whole, bad ones give one error and leave nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use std::fs;
use std::path::Path;

use base::{Kind, Result};
use fixture::{Layout, as_root, assert_clean, gzip, has, layer, read, run, usual_layers};
use image::{Image, Job, Source, Store};
use serde_json::json;

struct Bed {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Bed { dir, store }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn pull(&self, source: &str) -> Result<Image> {
        self.store.pull(&Source::parse(source)?, &Job::default())
    }

    fn refused(&self, source: &str, kind: Kind, says: &str) {
        let error = self.pull(source).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        let line = error.chain();
        assert!(line.contains(says) && !line.contains('\n'), "{line}");
        assert_clean(&self.dir.path().join("store"));
    }
}

#[test]
fn a_layout_is_unpacked_once_and_found_again() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    let layout = Layout::usual(Path::new(&bed.path("img")));
    let source = format!("oci:{}", bed.path("img"));
    let image = bed.pull(&source).unwrap();
    assert_eq!(read(&image, "/etc/a"), None);
    assert_eq!(read(&image, "/etc/b").as_deref(), Some("two"));
    assert_eq!(read(&image, "/etc/c").as_deref(), Some("three"));
    assert_eq!(
        image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(),
        &["/bin/tool"]
    );
    // Unpacked layers need no packed ones.
    for (packed, _) in usual_layers() {
        fs::remove_file(layout.path(&image::Digest::of(&packed).to_string())).unwrap();
    }
    let again = bed.pull(&source).unwrap();
    assert_eq!(
        (again.id.clone(), again.layers.clone()),
        (image.id.clone(), image.layers.clone())
    );
    let found = bed.store.find(&Source::parse(&source).unwrap()).unwrap().unwrap();
    assert_eq!(found.layers, image.layers);
    assert_eq!(bed.store.list().unwrap()[0].name, source);
    // In use: nothing is swept, not even when the name has gone.
    bed.store.forget(&source).unwrap();
    assert_eq!(bed.store.sweep(&[]).unwrap(), None);
    let (chains, layers) = (image.chains.clone(), image.layers.clone());
    drop((image, again, found));
    assert_eq!(bed.store.sweep(&chains).unwrap().unwrap().layers, 0);
    assert!(layers[0].exists());
    assert_eq!(bed.store.sweep(&[]).unwrap().unwrap().layers, 2);
    assert!(!layers[0].exists());
    assert_eq!(bed.store.forget(&source).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_overlay_of_the_layers_shows_the_same_files() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    Layout::usual(Path::new(&bed.path("img")));
    let image = bed.pull(&format!("oci:{}", bed.path("img"))).unwrap();
    let options = image
        .overlay(Path::new(&bed.path("up")), Path::new(&bed.path("work")))
        .unwrap();
    fs::create_dir(bed.path("merged")).unwrap();
    // In a mount namespace of its own: nothing is left behind.
    let script = format!(
        "mount -t overlay overlay -o {} {m} && cd {m} && ls etc | tr '\\n' ' ' && cat etc/b && echo x > etc/new",
        options.join(","),
        m = bed.path("merged"),
    );
    let out = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    if error.contains("mount") {
        eprintln!("skipped: no overlayfs on this file system: {error}");
        return;
    }
    assert_eq!(String::from_utf8_lossy(&out.stdout), "b c two", "{error}");
    assert_eq!(fs::read_to_string(bed.path("up/etc/new")).unwrap(), "x\n");
}

#[test]
fn a_bad_layout_gives_one_line_and_leaves_nothing() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    let dir = bed.path("img");
    let source = format!("oci:{dir}");
    bed.refused(&source, Kind::NotFound, "no directory");
    fs::create_dir(&dir).unwrap();
    bed.refused(&source, Kind::Invalid, "no oci-layout");
    let layout = Layout::new(Path::new(&dir));
    bed.refused(&source, Kind::Invalid, "no index.json");
    fs::write(format!("{dir}/index.json"), "{").unwrap();
    bed.refused(&source, Kind::Invalid, "index.json");

    layout.index(&[layout.manifest(&usual_layers(), "arm64")]);
    bed.refused(&source, Kind::Unsupported, "linux/arm64");
    let amd = layout.manifest(&usual_layers(), "amd64");
    layout.index(std::slice::from_ref(&amd));
    bed.refused(&format!("{source}:v9"), Kind::NotFound, "v9");

    // The second layer is not what its digest says; then it is, but not what the configuration says; then missing.
    let layers = usual_layers();
    let second = layout.path(&image::Digest::of(&layers[1].0).to_string());
    fs::write(&second, zstd::encode_all(&layer(&[("evil", "")])[..], 1).unwrap()).unwrap();
    bed.refused(&source, Kind::Invalid, "is broken: the blob");
    fs::remove_file(&second).unwrap();
    bed.refused(&source, Kind::Invalid, "missing");
    let other = layer(&[("other", "x")]);
    layout.index(&[layout.manifest(
        &[
            (gzip(&layers[0].1), layers[0].1.clone()),
            (gzip(&other), layers[1].1.clone()),
        ],
        "amd64",
    )]);
    bed.refused(&source, Kind::Invalid, "unpacks to");
    let cut = gzip(&other);
    layout.index(&[layout.manifest(&[(cut[..cut.len() - 9].to_vec(), other.clone())], "amd64")]);
    bed.refused(&source, Kind::Io, "unpack layer");

    // A configuration that promises another number of layers; an index that contains itself.
    let mut config = amd.clone();
    config["digest"] = json!(layout.blob(br#"{"schemaVersion": 2, "manifests": []}"#));
    layout.index(&[config]);
    bed.refused(&source, Kind::Unsupported, "linux/amd64");
}

#[test]
fn nested_indexes_and_tags_are_followed() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    let layout = Layout::new(Path::new(&bed.path("img")));
    let arm = layout.manifest(&usual_layers(), "arm64");
    let amd = layout.manifest(&usual_layers(), "amd64");
    let nested = json!({"schemaVersion": 2, "manifests": [arm, amd]}).to_string();
    let entry = |tag: &str, bytes: &str| {
        json!({"mediaType": "application/vnd.oci.image.index.v1+json", "size": bytes.len(),
               "digest": layout.blob(bytes.as_bytes()), "annotations": {"org.opencontainers.image.ref.name": tag}})
    };
    let mut single = amd.clone();
    single["annotations"] = json!({"org.opencontainers.image.ref.name": "v2"});
    layout.index(&[entry("v1", &nested), single]);
    let source = format!("oci:{}", bed.path("img"));
    bed.refused(&source, Kind::Invalid, "v1, v2");
    let one = bed.pull(&format!("{source}:v1")).unwrap();
    let two = bed.pull(&format!("{source}:v2")).unwrap();
    assert_eq!(one.id, two.id);
}

#[test]
fn rubbish_of_a_killed_process_goes_when_the_store_is_opened() {
    let bed = Bed::new();
    let store = bed.dir.path().join("store");
    fs::create_dir_all(store.join("tmp/1.2/layer/x")).unwrap();
    let _ = Store::open(&store).unwrap();
    assert_clean(&store);
}

#[test]
fn cancelled_pulls_leave_nothing() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    Layout::usual(Path::new(&bed.path("img")));
    let job = Job::default();
    job.cancel.set();
    let source = Source::parse(&format!("oci:{}", bed.path("img"))).unwrap();
    assert!(
        bed.store
            .pull(&source, &job)
            .unwrap_err()
            .chain()
            .ends_with("interrupted")
    );
    assert_clean(&bed.dir.path().join("store"));
}

#[test]
fn two_at_once_make_each_layer_once() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    Layout::usual(Path::new(&bed.path("img")));
    let source = Source::parse(&format!("oci:{}", bed.path("img"))).unwrap();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| bed.store.pull(&source, &Job::default()).unwrap().id))
            .collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(bed.dir.path().join("store/layers")).unwrap().count(), 2);
}

#[test]
fn saved_images_of_both_generations_are_read() {
    if !as_root() {
        return;
    }
    let bed = Bed::new();
    let layers = usual_layers();
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {"Cmd": null},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| image::Digest::of(&l.1).to_string()).collect::<Vec<_>>()}
    })
    .to_string();
    let list = json!([
        {"Config": "abc.json", "RepoTags": ["me/a:v1"], "Layers": ["one/layer.tar", "two/layer.tar"]},
        {"Config": "abc.json", "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"]}
    ]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("zero/layer.tar", &layers[0].1);
    add("two/layer.tar", &layers[1].0);
    add("abc.json", config.as_bytes());
    add("manifest.json", list.to_string().as_bytes());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive
        .append_link(&mut link, "one/layer.tar", "../zero/layer.tar")
        .unwrap();
    let archive = archive.into_inner().unwrap();
    fs::write(bed.path("a.tar"), &archive).unwrap();
    fs::write(bed.path("a.tar.gz"), gzip(&archive)).unwrap();
    bed.refused(
        &format!("docker-archive:{}", bed.path("a.tar")),
        Kind::Invalid,
        "me/a:v1",
    );
    bed.refused(
        &format!("docker-archive:{}:b", bed.path("a.tar")),
        Kind::NotFound,
        "me/a:v1",
    );
    for file in ["a.tar", "a.tar.gz"] {
        let image = bed
            .pull(&format!("docker-archive:{}:docker.io/me/a:v1", bed.path(file)))
            .unwrap();
        assert_eq!(read(&image, "/etc/b").as_deref(), Some("two"));
    }
    fs::write(bed.path("cut.tar"), &archive[..archive.len() / 2]).unwrap();
    assert!(bed.pull(&format!("docker-archive:{}", bed.path("cut.tar"))).is_err());
}

#[test]
fn what_skopeo_and_umoci_write_is_read() {
    if !as_root() || !has("umoci") || !has("skopeo") {
        return;
    }
    let bed = Bed::new();
    let layout = bed.path("img");
    let tagged = format!("{layout}:v1");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &tagged]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &tagged,
            "--architecture",
            "amd64",
            "--config.cmd",
            "hello",
        ],
    );
    for (file, text) in [("/one", "1"), ("/two", "2")] {
        fs::write(bed.path("file"), text).unwrap();
        run("umoci", &["insert", "--image", &tagged, &bed.path("file"), file]);
    }
    run("umoci", &["insert", "--image", &tagged, "--whiteout", "/one"]);
    let (old, new) = (bed.path("old.tar"), bed.path("new.tar"));
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci:{tagged}"),
            &format!("docker-archive:{old}:me/x:v1"),
        ],
    );
    run(
        "skopeo",
        &["copy", "-q", &format!("oci:{tagged}"), &format!("oci-archive:{new}:v1")],
    );
    for source in [
        format!("oci:{tagged}"),
        format!("docker-archive:{old}"),
        format!("oci-archive:{new}:v1"),
    ] {
        let image = bed.pull(&source).unwrap();
        assert_eq!(
            (read(&image, "/one"), read(&image, "/two").as_deref()),
            (None, Some("2")),
            "{source}"
        );
    }
    // All three have the same layers.
    assert_eq!(fs::read_dir(bed.dir.path().join("store/layers")).unwrap().count(), 3);
}
