// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module mounts damaged regions, those of the corruption suite: nothing breaks, the error
//! is the right one, what is not damaged is read.
//!
//! `RPRAMFS_SEED` is the number of the first image, `RPRAMFS_IMAGES` how many follow.

use crate::kmod;
use crate::lab::{program, Boot, Guest, Lab, Region, Size};
use crate::scenarios::module_posix::{quiet, CORRUPT, MODULE};
use anyhow::{ensure, Context, Result};
use std::path::Path;

const PROGRAM: &str = "usr/lib/rpramfs-hostile";
/// What the guest does between two looks at it.
const BATCH: u64 = 250;

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?;
    let module = kmod::module(lab.cache(), kernels, release)?;
    on(lab, release, &module, 400, 1)
}

/// So many images on one kernel, which is so many times slower than others.
pub fn on(lab: &Lab, kernel: &str, module: &Path, usual: u64, slow: u32) -> Result<()> {
    let images = number("RPRAMFS_IMAGES", usual);
    let boot = Boot::new(kernel)
        .region(Region::reserved(Size::mib(128)))
        .slow(slow)
        .file(MODULE, module)
        .file(PROGRAM, &program("rpramfs-tests", "rpramfs-hostile")?);
    let guest = lab.boot(&boot)?;
    guest.run(format!("insmod /{MODULE} && mkdir -p /mnt"))?;
    let first = number("RPRAMFS_SEED", 0);
    let mut from = first;
    while from < first + images {
        let count = BATCH.min(first + images - from);
        batch(&guest, from, count).with_context(|| format!("RPRAMFS_SEED={from}"))?;
        from += count;
    }
    guest.run("rmmod rpramfs")?;
    guest.check()
}

fn batch(guest: &Guest, first: u64, count: u64) -> Result<()> {
    guest.run("dmesg -c >/dev/null")?;
    let done = guest
        .command(format!("/{PROGRAM} 0x100000000 {first} {count} /mnt"))
        .timeout(600)
        .output()?;
    println!("from {first}: {}", done.stdout().trim_end());
    ensure!(done.success(), "{}{}", done.stdout(), done.stderr());
    // The module's own word for it is what is asked for here.
    quiet(guest, &[CORRUPT])?;
    guest.check()
}

fn number(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(usual)
}
