// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory fails under the kernel module. Where a file was, reads, writes and mappings of that page fail;
//! a free page is given to nobody; where metadata was, the mount is read-only. Nothing else happens.

use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use crate::scenarios::module_posix::{quiet, CORRUPT, MODULE};
use anyhow::{ensure, Context, Result};

const BASE: &str = "0x100000000";
const REGION: &str = "0x100000000+64M";
/// The first page of chunk descriptors (docs/LAYOUT.md, section 3) in a region of this size.
const BITMAPS: &str = "0x5000";

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    for release in kernels.series(7) {
        let module = kmod::module(lab.cache(), kernels, release)?;
        let boot = Boot::new(release)
            .region(Region::reserved(Size::mib(64)))
            .file(MODULE, &module);
        let guest = lab.boot(&boot)?;
        failures(&guest).with_context(|| {
            let log = guest.run("dmesg | tail -60").unwrap_or_default();
            format!("{release}\n{log}")
        })?;
        println!("{release}: what memory failed for has an error, and nobody else");
    }
    Ok(())
}

/// Files first, then metadata. The module is not loaded yet.
pub fn failures(guest: &Guest) -> Result<()> {
    guest.run(format!("mkfs.rpramfs -q -f {REGION}"))?;
    guest.run("lsmod | grep -q ^rpramfs || insmod /usr/lib/rpramfs.ko")?;
    guest.run(format!("mount -i -t rpramfs {REGION} /mnt"))?;
    guest.run(format!("/init failure {BASE} /mnt"))?;
    let log = guest.run("dmesg")?;
    ensure!(
        log.contains("rpramfs: memory has failed at offset"),
        "{log}"
    );
    quiet(guest, &[])?;
    guest.run("echo whole > /mnt/whole && umount /mnt")?;
    // Pages that nobody names are all that is left of it.
    set_aside(guest)?;
    guest.run(format!("fsck.rpramfs -y {REGION} || [ $? = 1 ]"))?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    // They are known until the machine is started anew, and so the module stays.
    guest.run(format!("mount -i -t rpramfs {REGION} /mnt"))?;
    guest.run(
        "dd if=/dev/zero of=/mnt/all bs=1M; dd if=/mnt/all of=/dev/null bs=1M && rm /mnt/all && umount /mnt",
    )?;
    set_aside(guest)?;
    guest.run("! rmmod rpramfs")?;
    guest.run(format!("fsck.rpramfs -y {REGION} || [ $? = 1 ]"))?;
    // The page that says which pages are in use: what is there can be read all the same.
    guest.run(format!("mount -i -t rpramfs {REGION} /mnt"))?;
    guest.run(format!("/init failure {BASE} {BITMAPS} fail"))?;
    guest.run(
        "! dd if=/dev/zero of=/mnt/new bs=4k count=1 && grep ' /mnt rpramfs .*emergency_ro' /proc/mounts",
    )?;
    guest.run("grep whole /mnt/whole && df /mnt")?;
    guest.run("umount /mnt")?;
    quiet(guest, &[CORRUPT])?;
    // And it is all there where the memory is.
    guest.run(format!(
        "mount -t rpramfs -o fuse {REGION} /mnt && grep whole /mnt/whole && umount /mnt && fsck.rpramfs -n {REGION}"
    ))?;
    guest.check()
}

/// Pages that nobody names are what a check finds: those that have failed.
fn set_aside(guest: &Guest) -> Result<()> {
    let said = guest
        .command(format!("fsck.rpramfs -n {REGION}"))
        .output()?;
    ensure!(
        said.stdout().contains("68 pages marked that nothing names"),
        "{}",
        said.stdout()
    );
    Ok(())
}
