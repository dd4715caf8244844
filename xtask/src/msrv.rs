// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Debian builds its kernels with rustc 1.85, so the core has to be content with that one. It is
//! taken from the archive of Debian 12, which has it for building browsers, and run in place.

use crate::host;
use crate::lab::{unpack, Apt, Cache};
use anyhow::{ensure, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "1.85.";
const PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev"];

/// Checks the core as the module uses it, and with everything user space adds.
pub fn check_core() -> Result<()> {
    let rustc = Rustc::find()?;
    println!("{}", rustc.version);
    for features in [&[][..], &["check"]] {
        let out = host::target().join("msrv");
        fs::create_dir_all(&out)?;
        let mut check = rustc.command();
        check.args([
            "--edition",
            "2021",
            "--crate-name",
            "fs_core",
            "--crate-type",
            "rlib",
        ]);
        // Warnings are for the newest compiler; here it has to build.
        check.args(["--cap-lints", "allow"]);
        check.args(["--emit", "metadata", "--out-dir"]).arg(&out);
        for feature in features {
            check.args(["--cfg", &format!("feature=\"{feature}\"")]);
        }
        check.arg(host::root().join("fs-core/src/lib.rs"));
        host::show(&mut check)?;
    }
    Ok(())
}

struct Rustc {
    root: PathBuf,
    version: String,
}

impl Rustc {
    fn find() -> Result<Rustc> {
        let cache = Cache::open()?;
        let apt = Apt::open(&cache, "rust", &["bookworm"])?;
        let packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
        let files = apt.closure(&packages)?;
        let compiler = files
            .iter()
            .find(|file| name(file).starts_with("rustc-web_"));
        let compiler = compiler.context("no rustc-web among the packages")?;
        let stem = name(compiler).trim_end_matches(".deb").to_owned();
        let root = cache.get(&format!("rust/{stem}"), |dir| {
            println!("unpacking rustc {VERSION}x");
            files.iter().try_for_each(|file| unpack(file, dir))
        })?;
        let mut rustc = Rustc {
            root,
            version: String::new(),
        };
        rustc.version = host::stdout(rustc.command().arg("--version"))?
            .trim()
            .to_owned();
        ensure!(
            rustc.version.contains(&format!(" {VERSION}")),
            "got {}",
            rustc.version
        );
        Ok(rustc)
    }

    /// The compiler with the libraries of its own release, whatever this machine has.
    fn command(&self) -> Command {
        let lib = |dir: &str| self.root.join(dir).join("x86_64-linux-gnu");
        let path = [
            lib("lib"),
            lib("usr/lib"),
            self.root.join("usr/lib/llvm-19/lib"),
        ];
        let path = std::env::join_paths(path).unwrap_or_default();
        let mut command = Command::new(lib("lib").join("ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(path)
            .arg(self.root.join("usr/bin/rustc"));
        command.arg("--sysroot").arg(self.root.join("usr"));
        command
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
