// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The source of a kernel, with its configuration, prepared as far as a module in Rust needs.

use super::userland::{Bind, Userland};
use crate::host;
use crate::lab::{key, unpack, Apt, Cache, Kernels};
use anyhow::{bail, ensure, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Not even looked at, and most of the whole. Configuring reads every Kconfig.
const NOT_UNPACKED: &[&str] = &[
    "arch/[a-wyz]*.[chS]",
    "arch/*/dts/*",
    "Documentation/*/*",
    "drivers/*.c",
    "drivers/gpu/drm/amd/include/*",
    "samples/*.c",
    "sound/*.[ch]",
    "tools/perf/*",
    "tools/testing/*",
];

/// Looked at while it is prepared, and not later. The other filesystems stay: they are good to read.
const NOT_KEPT: &str = "
    rm -rf drivers sound net samples
    for arch in arch/*/; do [ $arch = arch/x86/ ] || rm -rf $arch; done";

/// To be changed with `make`, so that the old ones are not taken any more.
const RECIPE: &[u8] = b"1";

/// Rust and KASAN go together with these compilers only.
const LLVM: &str = "LLVM=1";

/// What a debug kernel has besides `tinyconfig`, in the tree.
const DEBUG_CONFIG: &str = "kmod/debug.config";

pub struct Source {
    pub dir: PathBuf,
    /// Built with all that finds faults.
    pub debug: bool,
}

impl Source {
    /// The tree for a release. It remembers its path, which is `/usr/src/linux` in the userland.
    pub fn open(
        cache: &Cache,
        kernels: &Kernels,
        release: &str,
        userland: &Userland,
    ) -> Result<Source> {
        let name = format!("kbuild/{release}");
        let dir = make(cache, kernels, release, userland, &name, RECIPE, prepare)?;
        Ok(Source { dir, debug: false })
    }

    /// The same version with all that finds faults switched on, built whole. The image lies in the
    /// directory that `kernel` names.
    pub fn open_debug(
        cache: &Cache,
        kernels: &Kernels,
        release: &str,
        userland: &Userland,
    ) -> Result<Source> {
        let config = fs::read(host::root().join(DEBUG_CONFIG))?;
        let name = format!("kbuild/{release}-debug");
        let recipe = [RECIPE, &config].concat();
        let dir = make(cache, kernels, release, userland, &name, &recipe, build)?;
        Ok(Source { dir, debug: true })
    }

    /// Which compilers it is built with, for `make`.
    pub fn tools(&self) -> &'static str {
        if self.debug {
            LLVM
        } else {
            ""
        }
    }

    /// A directory with the image alone, for the lab.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("lab")
    }
}

/// What is being made into a source.
struct Making<'a> {
    packages: &'a [PathBuf],
    release: &'a str,
    userland: &'a Userland,
    dir: &'a Path,
}

/// Has a recipe make it, once, of the packages it takes.
fn make(
    cache: &Cache,
    kernels: &Kernels,
    release: &str,
    userland: &Userland,
    name: &str,
    recipe: &[u8],
    make: fn(&Making) -> Result<()>,
) -> Result<PathBuf> {
    let packages = packages(kernels.apt(), release)?;
    let root = userland.root.as_os_str().as_encoded_bytes();
    let names = packages.iter().map(|name| name.as_bytes());
    let key = key(names.chain([root, recipe]));
    cache.get(&format!("{name}-{key}"), |dir| {
        let files = kernels.apt().download(&packages)?;
        make(&Making {
            packages: &files,
            release,
            userland,
            dir,
        })?;
        // By far the largest, and nobody needs it again.
        let largest = files.iter().max_by_key(|file| size(file));
        largest.map_or(Ok(()), |file| Ok(fs::remove_file(file)?))
    })
}

/// Source, configuration and symbols, of the version of the kernel's own package.
fn packages(apt: &Apt, release: &str) -> Result<Vec<String>> {
    let series: Vec<&str> = release.splitn(3, '.').take(2).collect();
    let version = apt.version(&format!("linux-modules-{release}"))?;
    let source = format!("linux-source-{}", series.join("."));
    let base = format!("linux-base-{release}");
    let headers = format!("linux-headers-{release}");
    let names = [source, base, headers];
    Ok(names.map(|name| format!("{name}={version}")).to_vec())
}

/// Debian's kernel, as far as a module is built with it.
fn prepare(making: &Making) -> Result<()> {
    let Making { release, dir, .. } = making;
    println!("kmod: preparing {release} (some minutes, once)");
    let parts = making.parts()?;
    let config = making.config(&parts)?;
    making.unpack(&parts, NOT_UNPACKED)?;
    let headers = parts.join(format!("usr/src/linux-headers-{release}"));
    fs::copy(headers.join("Module.symvers"), dir.join("Module.symvers"))?;
    fs::remove_dir_all(&parts)?;

    fs::write(dir.join(".config"), config)?;
    // `7.3.4+deb13-cloud-amd64`: the Makefile knows what comes before the plus.
    let local = release.find(|c: char| !c.is_ascii_digit() && c != '.');
    let local = local.map_or("", |at| &release[at..]);
    fs::write(dir.join("localversion"), format!("{local}\n"))?;
    making.run(&format!(
        "make -s -j$(nproc) olddefconfig
         make -s -j$(nproc) prepare modules_prepare
         {NOT_KEPT}"
    ))?;

    let made = fs::read_to_string(dir.join("include/config/kernel.release"))?;
    ensure!(
        made.trim() == *release,
        "the source of {release} calls itself {made}"
    );
    let config = fs::read_to_string(dir.join(".config"))?;
    ensure!(
        setting(&config, "CONFIG_RUST") == Some("y"),
        "{release}: the configuration lost Rust: the tools here are not what the kernel asks for"
    );
    Ok(())
}

/// A kernel of our own from the same source.
fn build(making: &Making) -> Result<()> {
    let Making { release, dir, .. } = making;
    println!("kmod: building a debug kernel of {release} (ten minutes and more, once)");
    let parts = making.parts()?;
    making.config(&parts)?;
    making.unpack(&parts, &[])?;
    fs::remove_dir_all(&parts)?;
    let wanted = fs::read_to_string(host::root().join(DEBUG_CONFIG))?;
    fs::write(dir.join("debug.config"), &wanted)?;
    fs::write(dir.join("localversion"), "-rpramfs-debug\n")?;
    making.run(&format!(
        "make -s {LLVM} tinyconfig
         scripts/kconfig/merge_config.sh -m -O . .config debug.config >/dev/null
         make -s {LLVM} olddefconfig"
    ))?;
    let config = fs::read_to_string(dir.join(".config"))?;
    let lost: Vec<&str> = wanted
        .lines()
        .filter(|line| line.ends_with("=y") && !config.lines().any(|have| have == *line))
        .collect();
    ensure!(
        lost.is_empty(),
        "{release} does not take these of {DEBUG_CONFIG}: {}",
        lost.join(" ")
    );
    making.run(&format!(
        "make -s {LLVM} -j$(nproc) bzImage modules
         mkdir lab; cp $(make -s {LLVM} image_name) lab/vmlinuz
         cp include/config/kernel.release lab/release
         rm -f vmlinux vmlinux.o vmlinux.a .tmp_vmlinux*
         {NOT_KEPT}"
    ))
}

impl Making<'_> {
    /// The packages, unpacked.
    fn parts(&self) -> Result<PathBuf> {
        fs::create_dir_all(self.dir)?;
        let parts = self.dir.join("packages");
        let mut packages = self.packages.iter();
        packages.try_for_each(|file| unpack(file, &parts))?;
        Ok(parts)
    }

    /// The configuration of Debian's kernel, which is of the compiler that we have.
    fn config(&self, parts: &Path) -> Result<String> {
        let path = parts.join(format!("usr/lib/modules/{}/config", self.release));
        let config = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        same_compiler(&config, self.release, self.userland)?;
        Ok(config)
    }

    fn unpack(&self, parts: &Path, without: &[&str]) -> Result<()> {
        let mut tar = host::command("tar", ["-x", "--strip-components=1", "--anchored", "-C"]);
        let tarball = tarball(&parts.join("usr/src"))?;
        tar.arg(self.dir).arg("-f").arg(&tarball);
        let name = tarball.file_name().unwrap_or_default().to_string_lossy();
        let top = name.trim_end_matches(".tar.xz");
        for pattern in without {
            tar.arg(format!("--exclude={top}/{pattern}"));
        }
        host::quiet(tar.env("LC_ALL", "C")).map(drop)
    }

    fn run(&self, script: &str) -> Result<()> {
        let script = format!("cd /usr/src/linux\n{script}");
        self.userland
            .run(&[Bind::writable(self.dir, "usr/src/linux")], &script)
            .with_context(|| format!("cannot prepare the source of {}", self.release))
            .map(drop)
    }
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

fn tarball(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    entries
        .find(|path| path.extension().is_some_and(|ext| ext == "xz"))
        .context("no tarball in the source's package")
}

/// A kernel and its modules have to be of one rustc: nothing else reads the metadata, and the
/// layout of types is its own affair.
fn same_compiler(config: &str, release: &str, userland: &Userland) -> Result<()> {
    if setting(config, "CONFIG_RUST") != Some("y") {
        bail!("{release} is built without Rust (CONFIG_RUST)");
    }
    let its = setting(config, "CONFIG_RUSTC_VERSION_TEXT").unwrap_or("an unknown rustc");
    let ours = userland.run(&[], "rustc --version")?;
    ensure!(
        ours.trim() == its,
        "{release} was built with {its}, and Debian 13 now has {}: no module can be built for it",
        ours.trim()
    );
    Ok(())
}

/// The value of a setting in a kernel's configuration, without quotes.
fn setting<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let mut values = config
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().map(|value| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_their_whole_name() {
        let config = "# CONFIG_RU is not set\nCONFIG_RUSTC_VERSION=108501\n\
                      CONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb161250 2025-03-15)\"\n\
                      CONFIG_RUST=y\n";
        assert_eq!(setting(config, "CONFIG_RUST"), Some("y"));
        assert_eq!(setting(config, "CONFIG_RU"), None);
        assert_eq!(
            setting(config, "CONFIG_RUSTC_VERSION_TEXT"),
            Some("rustc 1.85.1 (4eb161250 2025-03-15)")
        );
    }
}
