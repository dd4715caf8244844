// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A guest without a root disk, with a region that the module has mounted at /mnt, and a redis that holds something.

use crate::apps::digest;
use crate::apps::redis::Redis;
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::Result;

const MODULE: &str = "usr/lib/rpramfs.ko";
const SIZE: Size = Size::gib(1);

/// The newest kernel with a region and the module.
pub fn boot(lab: &Lab) -> Result<Boot> {
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?;
    let module = kmod::module(lab.cache(), kernels, release)?;
    Ok(Boot::new(release)
        .region(Region::reserved(SIZE))
        .file(MODULE, &module))
}

/// Makes a filesystem and mounts it. Programs have PIDs that a new kernel does not use.
pub fn mount_new(guest: &Guest) -> Result<()> {
    guest.run(format!(
        "mkfs.rpramfs -q '{}'",
        Region::reserved(SIZE).spec()
    ))?;
    mount(guest)?;
    guest.high_pids()
}

/// Mounts what is there.
pub fn mount(guest: &Guest) -> Result<()> {
    let mount = format!(
        "insmod /{MODULE} && mkdir -p /mnt && mount -i -t rpramfs '{}' /mnt",
        Region::reserved(SIZE).spec()
    );
    guest.run(mount).map(drop)
}

/// Starts redis and fills it with so many keys of some 3 KiB.
pub fn start(guest: &Guest, keys: usize) -> Result<()> {
    guest.network_up()?;
    guest.run(
        "cd / && setsid redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no \
         </dev/null >/dev/null 2>&1 &",
    )?;
    Redis::connect(guest.address()?)?.fill(7, keys, 2900)
}

/// All that it holds.
pub fn items(guest: &Guest) -> Result<String> {
    Ok(digest(&Redis::connect(guest.address()?)?.items("key:")?))
}
