// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `build.rs` made of `proto/`.

macro_rules! generated {
    ($name:ident) => {
        #[allow(
            missing_debug_implementations,
            unused_qualifications,
            clippy::all,
            clippy::pedantic
        )]
        #[allow(
            clippy::unwrap_used,
            clippy::cast_possible_truncation,
            clippy::needless_pass_by_value
        )]
        #[allow(unknown_lints, nonstandard_style, unused, clippy::nursery)]
        #[allow(rustdoc::all)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

generated!(agent);
generated!(agent_ttrpc);
generated!(cri);
generated!(monitor);
generated!(monitor_ttrpc);
generated!(runtime_options);
