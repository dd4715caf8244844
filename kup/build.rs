// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's own definitions of its images, compiled.

use std::error::Error;
use std::path::Path;

/// What is read or written; the files that these import come along.
const IMAGES: [&str; 6] = [
    "fdinfo.proto",
    "inventory.proto",
    "mm.proto",
    "pagemap.proto",
    "pstree.proto",
    "stats.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("proto/criu");
    println!("cargo::rerun-if-changed={}", dir.display());
    let files = protox::compile(IMAGES, [dir])?;
    prost_build::Config::new()
        .default_package_filename("images")
        .compile_fds(files)?;
    Ok(())
}
