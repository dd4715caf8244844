// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module in a kernel that finds faults: KASAN, lockdep, kmemleak and more (see
//! `kmod/debug.config`). Hours under emulation, so that no other run includes it.
//!
//! `RPRAMFS_PARTS` chooses: `load`, `mount`, `hostile` and those of the judges; `RPRAMFS_IMAGES` is the
//! number of damaged regions.

use crate::kmod;
use crate::lab::{Guest, Lab};
use crate::scenarios::module_hostile;
use crate::scenarios::module_posix::{self, quiet, wants, MODULE, REGION};
use anyhow::{ensure, Context, Result};

/// Such a kernel, emulated, against a stock one.
const SLOW: u32 = 10;
const TIMES: u32 = 100;
const IMAGES: u64 = 500;

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?;
    let (kernel, module) = kmod::debug(lab.cache(), kernels, release)?;

    let boot = module_posix::boot(&kernel, &module)?.slow(SLOW);
    let guest = lab.boot(&boot)?;
    let features = guest.run("dmesg | grep -c -e KernelAddressSanitizer -e 'Lock dependency'")?;
    ensure!(features.trim() == "2", "no KASAN, or no lockdep");
    if wants("load") {
        repeat(
            &guest,
            "insmod and rmmod",
            "insmod /$MODULE && rmmod rpramfs",
        )?;
    }
    guest.run(format!("insmod /{MODULE}"))?;
    if wants("mount") {
        guest.run(format!("mkfs.rpramfs -q {REGION}"))?;
        repeat(
            &guest,
            "mount and umount",
            "mount -i -t rpramfs $REGION /mnt && echo $i > /mnt/f && mkdir -p /mnt/d && umount /mnt",
        )?;
    }
    module_posix::parts(&guest)?;
    leaks(&guest)?;
    guest.run("rmmod rpramfs")?;
    quiet(&guest, &[])?;
    guest.check()?;
    drop(guest);
    if wants("hostile") {
        module_hostile::on(lab, &kernel, &module, IMAGES, SLOW)?;
    }
    Ok(())
}

fn repeat(guest: &Guest, what: &str, script: &str) -> Result<()> {
    let script = script.replace("$MODULE", MODULE).replace("$REGION", REGION);
    guest
        .command(format!(
            "dmesg -c >/dev/null; for i in $(seq {TIMES}); do {script} || exit 1; done"
        ))
        .timeout(600)
        .run()
        .with_context(|| what.to_owned())?;
    quiet(guest, &[])?;
    guest.check()?;
    leaks(guest)?;
    println!("{}: {what}: {TIMES} times", guest.release());
    Ok(())
}

/// Memory that nobody knows of any more. A first scan finds what is only on its way.
fn leaks(guest: &Guest) -> Result<()> {
    let scan = "echo scan > /sys/kernel/debug/kmemleak";
    let found = guest
        .command(format!(
            "[ -e /sys/kernel/debug/kmemleak ] || mount -t debugfs debugfs /sys/kernel/debug
             {scan}; sleep 6; {scan}; cat /sys/kernel/debug/kmemleak"
        ))
        .timeout(300)
        .run()?;
    ensure!(!found.contains("rpramfs"), "kmemleak:\n{found}");
    let others = found.matches("unreferenced object").count();
    if others > 0 {
        println!("kmemleak: {others} objects that are not the module's");
    }
    guest.run("dmesg -c >/dev/null; echo clear > /sys/kernel/debug/kmemleak")?;
    Ok(())
}
