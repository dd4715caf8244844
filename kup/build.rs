// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's own definitions, compiled: of its images, and of what other programs ask of it.

use std::error::Error;
use std::path::Path;

/// What is read or written, by the module that it goes into; the files that these import come along.
const MODULES: [(&str, &[&str]); 2] = [
    (
        "images",
        &[
            "fdinfo.proto",
            "inventory.proto",
            "mm.proto",
            "pagemap.proto",
            "pstree.proto",
            "remap-file-path.proto",
            "stats.proto",
        ],
    ),
    ("rpc", &["rpc.proto"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("proto/criu");
    println!("cargo::rerun-if-changed={}", dir.display());
    for (module, files) in MODULES {
        let files = protox::compile(files, [dir])?;
        prost_build::Config::new()
            .default_package_filename(module)
            .compile_fds(files)?;
    }
    Ok(())
}
