// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Our own programs for the guest: static, so that they run in any initramfs.

use crate::host;
use anyhow::{ensure, Result};
use std::path::PathBuf;
use std::sync::OnceLock;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where each program goes; Cargo does not like a dot in the name of a program.
const RPRAMFS: &[(&str, &str)] = &[
    ("usr/sbin/mkfs.rpramfs", "mkfs-rpramfs"),
    ("usr/sbin/fsck.rpramfs", "fsck-rpramfs"),
    ("usr/sbin/mount.rpramfs", "mount-rpramfs"),
    ("usr/sbin/rpramfs", "rpramfs"),
    ("usr/sbin/kup", "kup"),
];

/// Built at most once in a run.
#[derive(Default)]
pub struct Tools {
    agent: OnceLock<PathBuf>,
    rpramfs: OnceLock<Vec<(&'static str, PathBuf)>>,
}

impl Tools {
    pub fn agent(&self) -> Result<PathBuf> {
        if let Some(path) = self.agent.get() {
            return Ok(path.clone());
        }
        build(&["lab-agent"])?;
        Ok(self.agent.get_or_init(|| built("lab-agent")).clone())
    }

    /// `(path in the guest, file)` of mkfs, fsck, mount, the inspector and kup.
    pub fn rpramfs(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        if let Some(list) = self.rpramfs.get() {
            return Ok(list.clone());
        }
        build(&["mkfs", "fsck", "fuse-frontend", "kup"])?;
        let list: Vec<_> = RPRAMFS
            .iter()
            .map(|(place, name)| (*place, built(name)))
            .collect();
        for (_, path) in &list {
            ensure!(path.exists(), "{} was not built", path.display());
        }
        Ok(self.rpramfs.get_or_init(|| list).clone())
    }
}

fn built(name: &str) -> PathBuf {
    host::target().join(TARGET).join("tools").join(name)
}

/// A static program of one of our packages.
pub fn program(package: &str, name: &str) -> Result<PathBuf> {
    build(&[package])?;
    let path = built(name);
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// Builds packages as static programs. Cargo may have to wait for another one: let it say so.
fn build(packages: &[&str]) -> Result<()> {
    let mut cargo = host::cargo();
    cargo.args(["build", "--profile", "tools", "--target", TARGET]);
    packages.iter().for_each(|package| {
        cargo.args(["-p", package]);
    });
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    host::show(&mut cargo)
}

/// Does this 64-bit ELF file ask for a dynamic linker, by a program header of type PT_INTERP (3)?
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|i| number(headers + i * size, 4) == 3)
}

/// Builds them all and sees that they need no library and stay small enough for an initramfs.
pub fn check_static() -> Result<()> {
    const LIMIT: u64 = 2 << 20;
    /// It knows CRIU's images, and what they are compiled from.
    const LIMIT_OF_KUP: u64 = 4 << 20;
    for (place, path) in Tools::default().rpramfs()? {
        let limit = match place.ends_with("/kup") {
            true => LIMIT_OF_KUP,
            false => LIMIT,
        };
        let bytes = std::fs::read(&path)?;
        ensure!(
            !has_interpreter(&bytes),
            "{} is linked dynamically",
            path.display()
        );
        ensure!(
            bytes.len() as u64 <= limit,
            "{}: {} bytes",
            path.display(),
            bytes.len()
        );
        println!("{:8} KiB  {}", bytes.len() >> 10, path.display());
    }
    Ok(())
}
