// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that have no safe wrapper in our libraries.

nix::ioctl_read_bad!(tiocgwinsz, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Rows and columns of the terminal; a common size if it does not tell.
pub fn window() -> (u16, u16) {
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel fills in a structure of ours of this type.
    let asked = unsafe { tiocgwinsz(0, &raw mut size) };
    match (asked, size.ws_row, size.ws_col) {
        (Ok(_), rows @ 1.., columns @ 1..) => (rows, columns),
        _ => (24, 80),
    }
}
