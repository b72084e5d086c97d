// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What containerd's configuration says for a runtime of ours (`[….runtimes.kata.options]`): which configuration file. It comes with
//! each container.

use std::path::Path;
use std::sync::Arc;

use api::runtime_options::Options;
use base::{Context, Error, Kind, Result};
use config::{Loaded, Selection};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::settings;

/// By what they are told from those of other runtimes, with or without a prefix.
const TYPE: &str = "runtimeoptions.v1.Options";

/// The configuration of a container: the file that `options` name, if they do. Errors: `Invalid`, what is wrong with it.
pub fn settings(selection: &Selection, options: Option<&Any>) -> Result<Arc<Loaded>> {
    let file = options.map(file).transpose()?.flatten();
    let selection = selection.clone().with(file.map(Into::into), None)?;
    settings::load(&selection)
}

/// The file that they name. Errors: `Invalid`.
pub fn file(options: &Any) -> Result<Option<String>> {
    if !options.type_url.ends_with(TYPE) {
        return Ok(None);
    }
    let options = Options::parse_from_bytes(&options.value);
    let options = options.context(Kind::Invalid, || "read the runtime's options".into())?;
    if options.config_path.is_empty() {
        // Without a path, containerd sends the table itself.
        if !options.config_body.is_empty() {
            log::warn!("options of the runtime without ConfigPath change nothing: keys go into the file that it names");
        }
        return Ok(None);
    }
    if !Path::new(&options.config_path).is_absolute() {
        let what = format!(
            "the runtime's option ConfigPath, {:?}, is not absolute",
            options.config_path
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(Some(options.config_path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(path: &str, kind: &str) -> Any {
        let options = Options {
            config_path: path.to_owned(),
            ..Options::default()
        };
        Any {
            type_url: kind.to_owned(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    #[test]
    fn a_path_is_taken_and_other_runtimes_options_are_left_alone() {
        for kind in [TYPE, "types.googleapis.com/runtimeoptions.v1.Options"] {
            assert_eq!(file(&any("/k.toml", kind)).unwrap().as_deref(), Some("/k.toml"));
        }
        assert_eq!(file(&any("", TYPE)).unwrap(), None);
        assert_eq!(file(&any("/k.toml", "containerd.runc.v1.Options")).unwrap(), None);
        assert!(file(&any("k.toml", TYPE)).unwrap_err().chain().contains("ConfigPath"));
        let missing = settings(&Selection::default(), Some(&any("/no/such.toml", TYPE))).unwrap_err();
        assert!(missing.chain().contains("/no/such.toml"), "{}", missing.chain());
    }
}
