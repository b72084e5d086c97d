// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Reads Debian packages: an `ar` archive with two tar archives in it. No dpkg is needed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};

/// No file of a kernel package that we read is larger than this.
const LIMIT: u64 = 512 << 20;

/// What a package says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it runs on: `amd64` or `all` for us.
    pub architecture: String,
}

/// Walks the files of the package at `path`: `want` says of which the content is wanted, `take` gets it. Paths
/// have no leading `./`.
pub fn read(path: &Path, want: &dyn Fn(&Path) -> bool, take: &mut dyn FnMut(&Path, Vec<u8>)) -> Result<Package> {
    let tried = || format!("read package {}", path.display());
    let file = File::open(path).attempt(tried)?;
    members(BufReader::new(file), want, take).attempt(tried)
}

fn members(
    mut deb: impl BufRead,
    want: &dyn Fn(&Path) -> bool,
    take: &mut dyn FnMut(&Path, Vec<u8>),
) -> Result<Package> {
    let mut magic = [0; 8];
    let read = deb.read_exact(&mut magic);
    if read.is_err() || &magic != b"!<arch>\n" {
        return Err(Error::new(Kind::Invalid, "not a Debian package"));
    }
    let mut package = None;
    let mut has_data = false;
    while let Some((name, size)) = member(&mut deb)? {
        let mut content = deb.by_ref().take(size);
        if name.starts_with("control.tar") {
            let mut control = String::new();
            tar(
                &name,
                &mut content,
                &|path| path == Path::new("control"),
                &mut |_, text| {
                    control = String::from_utf8_lossy(&text).into_owned();
                },
            )?;
            package = Some(fields(&control)?);
        } else if name.starts_with("data.tar") {
            tar(&name, &mut content, want, take)?;
            has_data = true;
        }
        // What a decoder left unread, and the padding to an even length.
        std::io::copy(&mut content, &mut std::io::sink()).attempt(|| format!("skip {name}"))?;
        if content.limit() > 0 {
            return Err(Error::new(Kind::Invalid, format!("member {name} is cut off")));
        }
        if size % 2 == 1 {
            let rest = deb.fill_buf().attempt(|| format!("skip the padding of {name}"))?;
            let padding = rest.len().min(1);
            deb.consume(padding);
        }
    }
    match package {
        Some(package) if has_data => Ok(package),
        _ => Err(Error::new(Kind::Invalid, "a package without control or data")),
    }
}

/// Name and size of the next member; `None` at the end.
fn member(deb: &mut impl BufRead) -> Result<Option<(String, u64)>> {
    if deb.fill_buf().attempt(|| "read the next member".into())?.is_empty() {
        return Ok(None);
    }
    let mut header = [0; 60];
    deb.read_exact(&mut header)
        .context(Kind::Invalid, || "read a member's header".into())?;
    let text = String::from_utf8_lossy(&header);
    let field = |from: usize, to: usize| text.get(from..to).unwrap_or_default().trim().to_owned();
    let size = field(48, 58)
        .parse()
        .context(Kind::Invalid, || "read a member's size".into())?;
    Ok(Some((field(0, 16).trim_end_matches('/').to_owned(), size)))
}

fn tar(
    name: &str,
    packed: &mut dyn BufRead,
    want: &dyn Fn(&Path) -> bool,
    take: &mut dyn FnMut(&Path, Vec<u8>),
) -> Result<()> {
    let plain: Box<dyn Read + '_> = match name.rsplit('.').next() {
        Some("tar") => Box::new(packed),
        Some("gz") => Box::new(flate2::bufread::GzDecoder::new(packed)),
        Some("xz") => Box::new(xz2::bufread::XzDecoder::new(packed)),
        Some("zst") => Box::new(zstd::Decoder::with_buffer(packed).attempt(|| "start the zstd decoder".into())?),
        _ => {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{name}: only gzip, xz and zstd are supported; unpack it with `dpkg-deb -x` and give the kernel and its modules directory"
                ),
            ));
        }
    };
    let tried = || format!("unpack {name}");
    let mut archive = tar::Archive::new(plain);
    for entry in archive.entries().attempt(tried)? {
        let mut entry = entry.attempt(tried)?;
        let path: PathBuf = entry
            .path()
            .attempt(tried)?
            .components()
            .skip_while(|c| c.as_os_str() == ".")
            .collect();
        if !entry.header().entry_type().is_file() || !want(&path) {
            continue;
        }
        if entry.size() > LIMIT {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} has {} bytes", path.display(), entry.size()),
            ));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).attempt(tried)?;
        take(&path, content);
    }
    Ok(())
}

fn fields(control: &str) -> Result<Package> {
    let field = |name: &str| {
        control
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(|value| value.trim().to_owned())
            .ok_or_else(|| Error::new(Kind::Invalid, format!("the control file has no field {name}")))
    };
    Ok(Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("./{path}"), *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A package with these files, compressed with zstd.
    pub(crate) fn package(name: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let control = format!("Package: {name}\nVersion: 1.2-3\nArchitecture: amd64\n");
        let control = tarball(&[("control", control.as_bytes())]);
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&control).unwrap();
        let data = zstd::encode_all(&tarball(files)[..], 1).unwrap();
        let mut deb = b"!<arch>\n".to_vec();
        for (name, content) in [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.xz", xz.finish().unwrap()),
            ("data.tar.zst", data),
        ] {
            deb.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                    0,
                    0,
                    0,
                    100_644,
                    content.len()
                )
                .bytes(),
            );
            deb.extend(&content);
            if content.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    #[test]
    fn wanted_files_and_the_packages_name_come_out() {
        let deb = package("linux-x", &[("boot/vmlinuz-1", b"kernel"), ("usr/share/doc/x", b"no")]);
        let mut seen = Vec::new();
        let want = |path: &Path| path.starts_with("boot");
        let package = members(&deb[..], &want, &mut |path, content| {
            seen.push((path.to_owned(), content));
        })
        .unwrap();
        assert_eq!(package.name, "linux-x");
        assert_eq!(package.version, "1.2-3");
        assert_eq!(seen, [(PathBuf::from("boot/vmlinuz-1"), b"kernel".to_vec())]);
    }

    #[test]
    fn cut_packages_are_refused_with_a_reason() {
        let deb = package("linux-x", &[("boot/vmlinuz-1", b"kernel")]);
        for end in 0..deb.len() - 1 {
            assert!(members(&deb[..end], &|_| true, &mut |_, _| ()).is_err(), "{end}");
        }
        let error = members(&b"PK\x03\x04"[..], &|_| true, &mut |_, _| ()).unwrap_err();
        assert!(error.chain().contains("not a Debian package"));
    }
}
