// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `kata images`, `kata pull` and `kata rmi`.

use std::collections::BTreeSet;

use base::{Context, Error, Kind, Result};
use image::{Named, Source, Store};
use indicatif::HumanBytes;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::arguments::Pull;
use super::interrupt::Interrupt;
use super::status::age;
use super::{FAILED, Failure, Here, root};
use crate::runtime::print;
use crate::runtime::table::table;

fn store(here: &Here) -> Result<Store> {
    Store::open(&here.settings.config.run.images)
}

pub fn images(here: &Here, as_json: bool, quiet: bool) -> Result<u8, Failure> {
    let all = store(here)?.list()?;
    let text = if as_json {
        let all: Vec<_> = all.iter().map(object).collect();
        let text = serde_json::to_string_pretty(&all).context(Kind::Bug, || "write the list".into())?;
        format!("{text}\n")
    } else if quiet {
        let ids: BTreeSet<&str> = all.iter().map(|named| named.manifest.short()).collect();
        ids.iter().map(|id| format!("{id}\n")).collect()
    } else {
        lines(&all, OffsetDateTime::now_utc())
    };
    print(&text)?;
    Ok(0)
}

fn pulled(named: &Named) -> String {
    named.pulled.format(&Rfc3339).unwrap_or_default()
}

fn lines(all: &[Named], now: OffsetDateTime) -> String {
    let head = ["IMAGE", "IMAGE ID", "PULLED", "SIZE"].map(str::to_owned);
    let line = |named: &Named| {
        [
            named.name.clone(),
            named.manifest.short().to_owned(),
            age(&pulled(named), now).map_or(String::new(), |age| format!("{age} ago")),
            HumanBytes(named.size).to_string(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(all.iter().map(line)).collect();
    table(&rows)
}

fn object(named: &Named) -> serde_json::Value {
    json!({
        "name": named.name, "id": named.manifest.to_string(), "pulled": pulled(named), "size": named.size
    })
}

/// Prints the image's id.
pub fn pull(here: &Here, name: &str, quiet: bool) -> Result<u8, Failure> {
    let source = Source::parse(name)?;
    let interrupt = Interrupt::watch()?;
    let image = root::image(&store(here)?, &source, Some(Pull::Always), quiet, interrupt.cancel());
    match (image, interrupt.caught()) {
        (Ok(image), _) => {
            print(&format!("{}\n", image.id))?;
            Ok(0)
        }
        (Err(_), Some(signal)) => Err(Failure {
            code: u8::try_from(128 + signal).unwrap_or(FAILED),
            error: Error::new(Kind::Gone, "interrupted"),
        }),
        (Err(e), None) => Err(e.into()),
    }
}

/// Forgets a name, or all names of an id; layers that nothing else uses go.
pub fn rmi(here: &Here, text: &str, force: bool) -> Result<()> {
    let store = store(here)?;
    let found = match find(&store.list()?, text) {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    if found.len() > 1 && !force {
        let names: Vec<&str> = found.iter().map(|named| named.name.as_str()).collect();
        let what = format!(
            "image {text} has several names, remove all with --force: {}",
            names.join(" ")
        );
        return Err(Error::new(Kind::State, what));
    }
    for named in &found {
        if !force && let Some(user) = user(here, &named.name)? {
            let what = format!("image {text} is used by the container {user}: remove that first, or use --force");
            return Err(Error::new(Kind::State, what));
        }
        store.forget(&named.name)?;
    }
    if store.sweep(&here.records.layers()?)?.is_none() {
        log::debug!("images are being used: content is left for later");
    }
    Ok(())
}

/// By name, in full or as it is typed; or by the first digits of the id, which may have several names.
fn find(all: &[Named], text: &str) -> Result<Vec<Named>> {
    let full = Source::parse(text).map_or_else(|_| text.to_owned(), |source| source.to_string());
    if let Some(named) = all.iter().find(|named| named.name == text || named.name == full) {
        return Ok(vec![named.clone()]);
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let fits = |named: &&Named| !digits.is_empty() && named.manifest.hex().starts_with(digits);
    let by_id: Vec<Named> = all.iter().filter(fits).cloned().collect();
    let Some(first) = by_id.first() else {
        return Err(Error::new(Kind::NotFound, format!("no image {text}")));
    };
    if by_id.iter().any(|named| named.manifest != first.manifest) {
        return Err(Error::new(Kind::Invalid, format!("several images are {text}…")));
    }
    Ok(by_id)
}

/// A container of the image.
fn user(here: &Here, image: &str) -> Result<Option<String>> {
    for place in here.records.list()? {
        if place.record()?.is_some_and(|record| record.image == image) {
            return Ok(Some(place.name()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use image::Digest;

    use super::*;

    #[test]
    fn images_are_found_by_any_of_their_names() {
        let named = |name: &str, content: &str| Named {
            name: name.to_owned(),
            manifest: Digest::of(content.as_bytes()),
            pulled: OffsetDateTime::UNIX_EPOCH,
            size: 2048,
        };
        let all = [
            named("docker.io/library/busybox:latest", "a"),
            named("oci:/gone:box", "b"),
            named("c", "b"),
        ];
        let name =
            |text: &str| find(&all, text).map(|found| found.into_iter().map(|named| named.name).collect::<Vec<_>>());
        assert_eq!(name("busybox").unwrap(), [all[0].name.as_str()]);
        assert_eq!(name("docker://busybox:latest").unwrap(), [all[0].name.as_str()]);
        assert_eq!(
            name("oci:/gone:box").unwrap(),
            [all[1].name.as_str()],
            "its layout need not be there"
        );
        assert_eq!(name(all[0].manifest.short()).unwrap(), [all[0].name.as_str()]);
        assert_eq!(name(&all[0].manifest.to_string()).unwrap(), [all[0].name.as_str()]);
        assert_eq!(name(all[1].manifest.short()).unwrap().len(), 2, "both names of the id");
        for none in ["busybox:1", "", "sha256:"] {
            assert_eq!(name(none).unwrap_err().kind(), Kind::NotFound, "{none}");
        }
        let text = lines(&all, OffsetDateTime::UNIX_EPOCH);
        assert!(text.contains("oci:/gone:box") && text.contains("2.00 KiB"), "{text}");
    }
}
