// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask kmod`: builds the kernel module for stock Debian kernels. Debian's headers do not
//! let one build a module in Rust, so the kernel's source is prepared until it does.

mod source;
pub mod userland;

use crate::host;
use crate::lab::{Cache, Kernels};
use anyhow::{ensure, Context, Result};
use clap::Args;
use source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use userland::{Bind, Userland};

#[derive(Args)]
pub struct Kmod {
    /// Newest that fits: 7.2, 7.x, 7.x-1, or a whole release name
    #[arg(long, default_value = "7.x")]
    kernel: String,
    /// For the newest kernel of every series that has Rust
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// For a kernel of our own from the same source, with KASAN, lockdep and the like
    #[arg(long, conflicts_with = "all")]
    debug: bool,
}

impl Kmod {
    pub fn run(&self) -> Result<()> {
        let cache = Cache::open()?;
        cache.sweep()?;
        let kernels = Kernels::find(&cache)?;
        if self.debug {
            let (kernel, module) = debug(&cache, &kernels, kernels.release(&self.kernel)?)?;
            println!("kmod: {}", module.display());
            println!("a guest with it: cargo xtask vm shell --kernel {kernel}");
            return Ok(());
        }
        let releases = if self.all {
            kernels.series(7)
        } else {
            vec![kernels.release(&self.kernel)?]
        };
        for release in releases {
            let module = module(&cache, &kernels, release)?;
            println!("kmod: {}", module.display());
        }
        Ok(())
    }
}

/// The module for a kernel, by its whole release name; built as far as the sources have changed.
pub fn module(cache: &Cache, kernels: &Kernels, release: &str) -> Result<PathBuf> {
    let userland = Userland::open(cache)?;
    let source = Source::open(cache, kernels, release, &userland)?;
    build(cache, &userland, &source, release)
}

/// The kernel's source, as far as it was kept.
pub fn source(cache: &Cache, kernels: &Kernels, release: &str) -> Result<PathBuf> {
    let userland = Userland::open(cache)?;
    Ok(Source::open(cache, kernels, release, &userland)?.dir)
}

/// A kernel that finds faults, as the lab takes it, and the module for it.
pub fn debug(cache: &Cache, kernels: &Kernels, release: &str) -> Result<(String, PathBuf)> {
    let userland = Userland::open(cache)?;
    let source = Source::open_debug(cache, kernels, release, &userland)?;
    let module = build(cache, &userland, &source, &format!("{release}-debug"))?;
    Ok((source.kernel().display().to_string(), module))
}

fn build(cache: &Cache, userland: &Userland, source: &Source, release: &str) -> Result<PathBuf> {
    let _lock = cache.lock(&format!("kmod-{release}"))?;
    let out = host::target().join("kmod").join(release);
    begin(&out, source)?;
    println!("kmod: building for {release}");
    let [module, core] = ["kmod", "fs-core"].map(|name| host::root().join(name));
    let binds = [
        Bind::read_only(&source.dir, "usr/src/linux"),
        Bind::read_only(&module, "usr/src/rpramfs/kmod"),
        Bind::read_only(&core, "usr/src/rpramfs/fs-core"),
        Bind::writable(&out, "usr/src/build"),
    ];
    let said = userland.run(
        &binds,
        &format!(
            "exec make {} -j$(nproc) -C /usr/src/linux W=1e \
             M=/usr/src/rpramfs/kmod MO=/usr/src/build modules",
            source.tools()
        ),
    );
    let said = said.with_context(|| format!("the module does not build for {release}"))?;
    // Of the linker, objtool and modpost: W=1e makes errors of the compilers' warnings only. With
    // debug assertions the library panics in functions that objtool does not know.
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.to_lowercase().contains("warning"))
        .filter(|line| !(source.debug && line.contains("objtool")))
        .collect();
    ensure!(
        warnings.is_empty(),
        "{release}: warnings\n{}",
        warnings.join("\n")
    );
    let module = out.join("rpramfs.ko");
    ensure!(module.is_file(), "{} was not built", module.display());
    Ok(module)
}

/// What was built with another tree is of no use, which make would not notice.
fn begin(out: &Path, source: &Source) -> Result<()> {
    let stamp = out.join("tree");
    let tree = source.dir.to_string_lossy().into_owned();
    if fs::read_to_string(&stamp).is_ok_and(|old| old == tree) {
        return Ok(());
    }
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    fs::write(stamp, tree)?;
    Ok(())
}
