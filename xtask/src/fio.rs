// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! fio as one static program. Debian's own is linked against 58 MB of libraries for storage that no guest has,
//! and every guest would have to unpack them.

use crate::kmod::userland::{Bind, Userland};
use crate::lab::{key, Apt, Cache};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// As for the guests' other programs.
const SUITE: &str = "forky";

/// What it finds by itself if the compiler's system has it is left out too: the result is always the same.
const BUILD: &str = "
    cd /usr/src/build && tar -xz --strip-components=1 -f source.tar.gz
    ./configure --build-static --disable-native --disable-shm --disable-numa --disable-rdma \
        --disable-rados --disable-rbd --disable-http --disable-gfapi --disable-pmem --disable-libnfs \
        --disable-lex --disable-tcmalloc
    make -j$(nproc) fio && strip fio";

/// Built where it is not in the cache.
pub fn program(cache: &Cache) -> Result<PathBuf> {
    let userland = Userland::open(cache)?;
    let apt = Apt::open_sources(cache, "sources", &[SUITE])?;
    let source = apt.source("fio")?;
    let names = [&source, &userland.root].map(|path| path.as_os_str().as_encoded_bytes().to_vec());
    let key = key(names.into_iter().chain([BUILD.as_bytes().to_vec()]));
    cache.get(&format!("userland/fio-{key}"), |out| {
        println!("lab: building fio");
        let dir = out.with_extension("build");
        let built = build(&userland, &source, &dir, out);
        let _ = fs::remove_dir_all(&dir);
        built.context("fio does not build")
    })
}

fn build(userland: &Userland, source: &Path, dir: &Path, out: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    fs::copy(source, dir.join("source.tar.gz"))?;
    userland.run(&[Bind::writable(dir, "usr/src/build")], BUILD)?;
    fs::copy(dir.join("fio"), out)?;
    Ok(())
}
