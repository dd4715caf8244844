// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Figures for whoever runs the suites: `cargo xtask test crash` and the like add them up.

use std::fs::OpenOptions;
use std::io::Write;

/// Appends a line to the file that `RPRAMFS_FIGURES` names, if it names one.
///
/// # Panics
/// When it cannot: figures that are missing must not be taken for good ones.
pub fn append(line: &serde_json::Value) {
    if let Some(path) = std::env::var_os("RPRAMFS_FIGURES") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("RPRAMFS_FIGURES");
        // One write, so that lines of tests side by side do not mix.
        file.write_all(format!("{line}\n").as_bytes())
            .expect("RPRAMFS_FIGURES");
    }
}
