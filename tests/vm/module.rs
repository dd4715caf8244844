// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module can be loaded into every kernel it is built for, and unloaded.

use crate::kmod;
use crate::lab::{Boot, Guest, Lab};
use anyhow::{ensure, Context, Result};

const PLACE: &str = "usr/lib/rpramfs.ko";
/// Out of tree, and unsigned.
const TAINTS: u64 = 1 << 12 | 1 << 13;

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    for release in kernels.series(7) {
        let module = kmod::module(lab.cache(), kernels, release)?;
        let boot = Boot::new(release).without_tools().file(PLACE, &module);
        let guest = lab.boot(&boot)?;
        load(&guest).with_context(|| release.to_owned())?;
        println!("{release}: loaded and unloaded");
    }
    Ok(())
}

fn load(guest: &Guest) -> Result<()> {
    guest.run(format!("insmod /{PLACE} && grep '^rpramfs ' /proc/modules"))?;
    let log = guest.run("dmesg")?;
    ensure!(
        log.contains("rpramfs: layout version "),
        "the module says nothing:\n{log}"
    );
    guest.run("rmmod rpramfs && ! grep '^rpramfs ' /proc/modules")?;

    let taints = guest.run("cat /proc/sys/kernel/tainted")?;
    let taints: u64 = taints.trim().parse().context("the kernel's taints")?;
    let log = guest.run("dmesg")?;
    let bad = log.contains("WARNING: ") || log.contains("BUG: ");
    ensure!(
        taints & !TAINTS == 0 && !bad,
        "taints {taints:#x} and this log:\n{log}"
    );
    guest.check()
}
